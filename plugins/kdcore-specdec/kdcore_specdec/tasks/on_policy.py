"""Training on what the draft itself says, or its target: DistillSpec's and GKD's data, made anew in every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from kdcore.signals import Batch
from kdcore_specdec.data.packing import Rows
from kdcore_specdec.sampling import Continuation, continued
from kdcore_specdec.tasks.causal import CausalLanguageModel


class OnPolicy(CausalLanguageModel):
    """Like ``specdec.causal_lm``, and training rows are continued by a model, in a share of the steps.

    The beginning of each row is kept, up to its first label or ``prompt`` tokens, and a model says the rest; its tokens
    are the labels. DistillSpec's four kinds of data are: fixed (``specdec.causal_lm``), of the target (``of_target: 1,
    of_draft: 0``; once and for all by the action ``specdec.regenerate``), of the draft (``of_draft: 1``), and mixed
    (``of_draft: 0.5, of_target: 0.5``). GKD's lambda is ``of_draft``; in the other steps the data is as it is.

    Which of them a step uses, and what is sampled, follows from the random state at its start, which checkpoints hold:
    a resumed run samples the same. No gradient flows through sampling, as in both papers. Validation uses the data
    as it is.

    Args:
        draft: the model that is trained.
        target: the model that teaches; only needed with ``of_target``.
        of_draft: share of the steps whose rows the draft continues.
        of_target: share of the steps whose rows the target continues.
        prompt: tokens of a row that are kept at least.
        new_tokens: tokens that are said at most; as many as the row has room for by default.
        temperature: of the sampling; 1 in both papers.
        vocabulary: how many tokens there are; filled in from the data.
        length: tokens in a row; filled in from the data.
        packed: whether several documents share a row; filled in from the data, and refused.
        end_token: the token that ends a document; filled in from the data.
        pad_token: the token that fills a row; filled in from the data.
        logits: give the signal ``logits`` (N, T, V); see ``specdec.causal_lm``.
        layers: decoder layers whose output is a signal too.

    Raises:
        ValueError: shares outside 0 to 1, documents that share rows, or no target where it is to speak.

    **Paper**: Zhou et al., DistillSpec, 2023 (arXiv 2310.08461); Agarwal et al., GKD, 2023 (arXiv 2306.13649),
    algorithm 1.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "vocabulary", "length", "tokenizer_digest", "packed", "token_counts", "target_layers", "end_token", "pad_token",
    )  # fmt: skip

    def __init__(
        self,
        *,
        draft: str,
        target: str | None = None,
        of_draft: float = 1.0,
        of_target: float = 0.0,
        prompt: int = 1,
        new_tokens: int | None = None,
        temperature: float = 1.0,
        vocabulary: int,
        length: int,
        packed: bool,
        end_token: int,
        pad_token: int,
        logits: bool = True,
        layers: list[int] | None = None,
    ) -> None:
        super().__init__(vocabulary=vocabulary, length=length, logits=logits, layers=layers)
        if not (of_draft >= 0 and of_target >= 0 and of_draft + of_target <= 1):
            raise ValueError(
                f"of_draft={of_draft} and of_target={of_target}: give shares of the steps, together at most 1"
            )
        if of_target > 0 and target is None:
            raise ValueError(f"of_target={of_target}: name the model that speaks (`target`)")
        if packed:
            raise ValueError(
                "the data packs several documents into a row, of which one can go on: set `data.packed: false`"
            )
        self._shares = {draft: of_draft, **({} if target is None else {target: of_target})}
        self._how = Continuation(prompt, new_tokens, temperature)
        self._end, self._pad = end_token, pad_token

    def prepare(self, batch: Batch, models: Callable[[str], nn.Module]) -> Batch:
        """The batch, its rows continued by whoever's turn it is."""
        # from the host's generator: which model speaks must not wait for the device
        turn, seed = float(torch.rand(())), int(torch.randint(2**62, ()))
        for name, share in self._shares.items():
            if turn < share:
                rows = Rows(batch["input_ids"], batch["labels"], batch["segment"])
                said = continued(models(name), rows, self._how, end=self._end, pad=self._pad, seed=seed)
                return {**batch, **said._asdict()}
            turn -= share
        return batch
