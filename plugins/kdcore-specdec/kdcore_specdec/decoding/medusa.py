"""Proposals of Medusa's heads: all from one hidden state."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcore_specdec.decoding.base import Proposal, Sampler
from kdcore_specdec.decoding.eagle import nothing
from kdcore_specdec.models.causal import CausalLM
from kdcore_specdec.models.medusa import Medusa


class HeadsDrafter:
    """Proposes a token of each head; a :class:`~kdcore_specdec.decoding.base.Drafter`.

    At most as many tokens as there are heads, and none after a single token.

    Args:
        draft: in eval mode.
        target: whose final hidden states the heads read.
    """

    def __init__(self, draft: Medusa, target: CausalLM) -> None:
        self.draft = draft
        self.layers: tuple[int, ...] = (target.depth,)
        self._ahead: Tensor | None = None

    def start(self, prompt: Tensor, layers: dict[int, Tensor] | None) -> None:
        self._ahead = None
        if prompt.shape[1] > 1:
            self._read(layers or {})

    def propose(self, k: int, sampler: Sampler) -> Proposal:
        if self._ahead is None:
            return nothing(self.draft)
        k = min(k, len(self._ahead))
        logits = self.draft.spread((self._ahead[:k, None] @ self.draft.w2[:k].transpose(1, 2))[:, 0])
        tokens, probs = zip(*(sampler.pick(row) for row in logits), strict=True)
        return Proposal(torch.stack(tokens), None if sampler.greedy else torch.stack(probs))

    def accept(self, tokens: Tensor, layers: dict[int, Tensor] | None) -> None:
        self._read(layers or {})

    def _read(self, layers: dict[int, Tensor]) -> None:
        hidden = layers[self.layers[0]][:, -1:].to(self.draft.w1.dtype)
        self._ahead = self.draft.ahead(hidden)[0, :, 0]  # (K, D)
