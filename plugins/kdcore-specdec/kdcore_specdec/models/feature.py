"""What all drafts share that read their target's hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdcore_specdec import vocabulary as vocabularies
from kdcore_specdec.alignment import has_before, later
from kdcore_specdec.models.causal import restarting_positions

if TYPE_CHECKING:
    from kdcore.signals import Batch, Signals
    from kdcore_specdec.decoding.base import Drafter
    from kdcore_specdec.models.causal import CausalLM
    from kdcore_specdec.models.decoder import Memory


class FeatureDraft(nn.Module):
    """A draft that predicts from the target's hidden states: at t it has read tokens up to t, the target up to t - 1.

    It is called with a batch and the target's signals, and gives signals itself. All of them stand where those of an
    ordinary language model stand: position t is about the token after t.

    - ``logits`` (N, T, V) over the target's vocabulary, ``-inf`` outside its own;
    - ``hidden`` (N, T, D) and ``head`` (V', D), their factors, over its own V' tokens;
    - ``tokens`` int64 (V',), which of the target's tokens these are;
    - ``predicts`` bool (N, T), where there was a hidden state to predict from: not at the start of a document.

    The target's embedding and head are copied from its signals into frozen weights when they are first seen, and again
    when they have changed.

    Attributes:
        reads: the models of the recipe whose signals it is given: its target.
        size: V', how many tokens it tells apart.
    """

    d2t: Tensor | None
    t2d: Tensor | None

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        draft_vocabulary: int | None,
        token_counts: list[int] | None,
        target: str,
    ) -> None:
        super().__init__()
        self.reads = (target,)
        self.vocabulary, self.width = vocabulary, width
        self._met: tuple[tuple[int, int], ...] = ()
        d2t = t2d = None
        if draft_vocabulary is not None and draft_vocabulary != vocabulary:
            tokens = vocabularies.most_frequent(_counts(token_counts, vocabulary), draft_vocabulary)
            d2t, t2d = vocabularies.offsets(tokens), vocabularies.known(tokens, vocabulary)
        self.register_buffer("d2t", d2t)
        self.register_buffer("t2d", t2d)
        self.size = vocabulary if d2t is None else len(d2t)

    @property
    def tokens(self) -> Tensor:
        """int64 (V',): the target's ids of the tokens that this draft tells apart."""
        if self.d2t is None:
            return torch.arange(self.vocabulary, device=next(self.parameters()).device)
        return vocabularies.tokens_of(self.d2t)

    def spread(self, logits: Tensor) -> Tensor:
        """Logits (..., V') over its own tokens -> (..., V) over the target's."""
        return vocabularies.spread(logits, self.tokens, self.vocabulary)

    def forward(self, batch: Batch, target: Signals | None, *, logits: bool = True) -> Signals:
        """Its signals, see the class.

        Args:
            batch: ``input_ids`` int64 (N, T), and ``segment`` (N, T) where rows are packed.
            target: the target's signals; ``None`` computes from zeros, which costs the same.
            logits: give them; (N, T, V) may be large.

        Raises:
            KeyError: the target does not give a hidden state that it reads.
            ValueError: the target is of another width or vocabulary.
        """
        if target is not None:
            self._meet(target)
        tokens = batch["input_ids"]
        features = self.features(target, tokens)
        found = self.predict(batch, later(features, 1), has_before(tokens, batch.get("segment")))
        found["tokens"] = self.tokens
        if logits:
            found["logits"] = self.spread(found["hidden"] @ found["head"].to(found["hidden"].dtype).T)
        return found

    def predict(self, batch: Batch, features: Tensor, known: Tensor) -> Signals:
        """``hidden``, ``head``, ``predicts`` and whatever else it gives.

        Args:
            batch: as for :meth:`forward`.
            features: (N, T, F), at t those of the target at t - 1.
            known: bool (N, T), where there are such.
        """
        raise NotImplementedError

    def drafter(self, target: CausalLM) -> Drafter:
        """This draft, ready to propose tokens to ``target``."""
        raise NotImplementedError

    def features(self, target: Signals | None, like: Tensor) -> Tensor:
        """What it reads of the target, (N, T, F) in its own type; by default the final hidden state."""
        if target is None:
            return self._zeros(like, self.width)
        return self._wide(target["hidden"])

    def adopt(self, embedding: Tensor, head: Tensor) -> None:
        """Copy what it uses of the target's embedding (V, D) and head (V, D); without gradients."""
        raise NotImplementedError

    def _meet(self, target: Signals) -> None:
        given = [target[name] for name in ("embedding", "head") if name in target]
        if len(given) < 2:  # a cache keeps some signals only, and the target was seen before it was written
            return
        # changed values have another version, a moved net another address; neither asks the device
        now = tuple((tensor.data_ptr(), tensor._version) for tensor in given)
        if now != self._met:
            for tensor in given:
                self._check(tensor)
            with torch.no_grad():
                self.adopt(*given)
            self._met = now

    def _check(self, weight: Tensor) -> None:
        tokens, width = weight.shape
        self._check_width(width)
        if tokens != self.vocabulary:
            raise ValueError(
                f"the draft has a vocabulary of {self.vocabulary}, its target `{self.reads[0]}` one of {tokens}: a "
                "draft uses the target's embedding and head"
            )

    def _check_width(self, width: int) -> None:
        if width != self.width:
            raise ValueError(
                f"the draft has width={self.width}, and the hidden states of its target `{self.reads[0]}` are {width} "
                f"wide: set `width: {width}`"
            )

    def _zeros(self, like: Tensor, width: int) -> Tensor:
        weight = next(self.parameters())
        return torch.zeros(*like.shape, width, device=like.device, dtype=weight.dtype)

    def _wide(self, hidden: Tensor) -> Tensor:
        self._check_width(hidden.shape[-1])
        return hidden.to(next(self.parameters()).dtype)


class TokenDraft(FeatureDraft):
    """One that reads tokens through the target's embedding and speaks through its head, both frozen.

    **Weights**: ``embed_tokens.weight`` (V, D) and ``lm_head.weight`` (V', D), named as in the speculators format.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        draft_vocabulary: int | None,
        token_counts: list[int] | None,
        target: str,
    ) -> None:
        super().__init__(
            vocabulary=vocabulary,
            width=width,
            draft_vocabulary=draft_vocabulary,
            token_counts=token_counts,
            target=target,
        )
        self.embed_tokens = nn.Embedding(vocabulary, width).requires_grad_(False)
        self.lm_head = nn.Linear(width, self.size, bias=False).requires_grad_(False)

    def adopt(self, embedding: Tensor, head: Tensor) -> None:
        self.embed_tokens.weight.copy_(embedding)
        self.lm_head.weight.copy_(head.index_select(0, self.tokens))


class ChainDraft(TokenDraft):
    """One that can go on from its own hidden states, a guess at a time."""

    def step(
        self, tokens: Tensor, fused: Tensor, positions: Tensor, memory: Memory, *, mask: Tensor | None, step: bool
    ) -> tuple[Tensor, Tensor]:
        """What the head reads, (N, T, D), and what the next guess reads as its ``fused``, (N, T, D).

        Args:
            tokens: int64 (N, T), each the successor of the token that ``fused`` is about.
            fused: (N, T, D), from the target's hidden states or from the guess before.
            positions: int64 (N, T).
            memory: of the attention; tokens and features join it as rows, or as guesses where ``step``.
            mask: bool (N, 1, T, S), the rows that each token sees; ``None`` for all.
        """
        raise NotImplementedError


def row_positions(batch: Batch) -> Tensor:
    """int64 (N, T): a row stands at its feature's position, one before its token's, as it does in vLLM."""
    segment = batch.get("segment")
    return restarting_positions(torch.ones_like(batch["input_ids"]) if segment is None else segment) - 1


def _counts(token_counts: list[int] | None, vocabulary: int) -> list[int]:
    if token_counts is None:
        raise ValueError(
            "draft_vocabulary keeps the most frequent tokens, and nobody has counted them: set `count_tokens: true` "
            "under `data`, or give `token_counts`, one number for each token"
        )
    if len(token_counts) != vocabulary:
        raise ValueError(f"token_counts holds {len(token_counts)} numbers, the vocabulary {vocabulary} tokens")
    return token_counts
