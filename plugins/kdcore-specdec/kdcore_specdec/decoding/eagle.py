"""Chains of guesses, each from the hidden state that the one before gave: EAGLE-3 and FSPAD."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcore_specdec.decoding.base import Proposal, Sampler
from kdcore_specdec.models.decoder import Memory
from kdcore_specdec.models.feature import ChainDraft


class ChainDrafter:
    """Proposes a chain of tokens; a :class:`~kdcore_specdec.decoding.base.Drafter`.

    Rows, whose hidden states came from the target, are remembered; guesses are forgotten with each proposal, and what
    was accepted of them is read again with the target's hidden states. It has nothing to say after a single token.

    Args:
        draft: in eval mode.
        layers: of the target, whose hidden states it reads, side by side.
        fuse: (1, m, F) -> (1, m, D), what the draft does with them.
    """

    def __init__(self, draft: ChainDraft, layers: tuple[int, ...], fuse: nn.Module) -> None:
        self.draft, self.layers, self.fuse = draft, layers, fuse
        self._memory, self._rows = Memory(), 0
        self._last: tuple[Tensor, Tensor] | None = None

    def start(self, prompt: Tensor, layers: dict[int, Tensor] | None) -> None:
        self._memory, self._rows, self._last = Memory(), 0, None
        if prompt.shape[1] > 1:
            self._read(prompt[0, 1:], layers or {})

    def propose(self, k: int, sampler: Sampler) -> Proposal:
        if self._last is None:
            return nothing(self.draft)
        (hidden, fused), memory = self._last, self._memory.guessing()
        tokens, probs = [], []
        for i in range(1, k + 1):
            token, drawn_from = sampler.pick(self.draft.spread(self.draft.lm_head(hidden[0, -1])))
            tokens.append(token)
            if drawn_from is not None:
                probs.append(drawn_from)
            if i < k:
                at = torch.full_like(token.view(1, 1), self._rows - 1 + i)
                hidden, fused = self.draft.step(token.view(1, 1), fused, at, memory, mask=None, step=True)
        return Proposal(torch.stack(tokens), torch.stack(probs) if probs else None)

    def accept(self, tokens: Tensor, layers: dict[int, Tensor] | None) -> None:
        self._read(tokens, layers or {})

    def _read(self, tokens: Tensor, layers: dict[int, Tensor]) -> None:
        """Tokens (m,) and the target's hidden states (1, m, D) of the tokens before each."""
        features = torch.cat([layers[i] for i in self.layers], -1).to(self.draft.lm_head.weight.dtype)
        before, m = self._rows, len(tokens)
        self._rows += m
        positions = torch.arange(before, self._rows, device=tokens.device)
        mask = torch.arange(self._rows, device=tokens.device) <= positions[:, None]
        hidden, fused = self.draft.step(
            tokens[None], self.fuse(features), positions[None], self._memory, mask=mask[None, None], step=False
        )
        self._last = hidden[:, -1:], fused[:, -1:]


def nothing(draft: nn.Module) -> Proposal:
    """A proposal of no tokens."""
    device = next(draft.parameters()).device
    return Proposal(torch.empty(0, dtype=torch.int64, device=device), None)
