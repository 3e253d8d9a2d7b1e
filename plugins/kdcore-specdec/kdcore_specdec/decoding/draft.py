"""An ordinary draft: a smaller language model that reads the same tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdcore_specdec.decoding.base import Drafter, Proposal, Sampler
from kdcore_specdec.decoding.cached import Cached
from kdcore_specdec.models.causal import CausalLM


class DraftModel:
    """Drafts with a language model of its own, with its own cache; a :class:`Drafter`.

    Args:
        model: in eval mode, over the target's vocabulary.
    """

    layers: tuple[int, ...] = ()

    def __init__(self, model: CausalLM) -> None:
        self.model = model
        self._cached = Cached(model, can_forget=True)
        self._unread = torch.empty(1, 0, dtype=torch.int64)
        self._ahead = 0
        """How many tokens of the latest proposal the cache holds: all but the last."""

    def start(self, prompt: Tensor, layers: dict[int, Tensor] | None) -> None:
        self._cached = Cached(self.model, can_forget=True)
        self._unread, self._ahead = prompt, 0

    def propose(self, k: int, sampler: Sampler) -> Proposal:
        tokens, probs = [], []
        for _ in range(k):
            token, drawn_from = sampler.pick(self._cached.next_logits(self._unread))
            self._unread = token.view(1, 1)
            tokens.append(token)
            if drawn_from is not None:
                probs.append(drawn_from)
        self._ahead = k - 1
        return Proposal(torch.stack(tokens), torch.stack(probs) if probs else None)

    def accept(self, tokens: Tensor, layers: dict[int, Tensor] | None) -> None:
        held = min(len(tokens) - 1, self._ahead)
        self._cached.forget(self._ahead - held)
        self._unread = tokens[None, held:]


def drafter_of(draft: torch.nn.Module, target: CausalLM) -> Drafter:
    """What proposes tokens: a feature-level draft makes its own with ``drafter(target)``.

    Raises:
        ValueError: draft and target have different vocabularies, or the draft is no language model.
    """
    make: Callable[[CausalLM], Drafter] | None = getattr(draft, "drafter", None)
    if make is not None:
        return make(target)
    if not isinstance(draft, CausalLM):
        raise ValueError(
            f"a {type(draft).__name__} proposes no tokens: choose a language model or a feature-level draft"
        )
    if draft.vocabulary != target.vocabulary:
        raise ValueError(
            f"the draft tells {draft.vocabulary} tokens apart and the target {target.vocabulary}: a draft proposes "
            "tokens of the target's vocabulary"
        )
    return DraftModel(draft)
