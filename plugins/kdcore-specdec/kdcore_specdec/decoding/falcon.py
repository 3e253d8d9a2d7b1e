"""Proposals of Falcon: block after block, each in one forward."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcore_specdec.decoding.base import Proposal, Sampler
from kdcore_specdec.decoding.eagle import nothing
from kdcore_specdec.models.causal import CausalLM
from kdcore_specdec.models.decoder import Memory
from kdcore_specdec.models.falcon import Falcon, State


class BlockDrafter:
    """Proposes blocks of tokens; a :class:`~kdcore_specdec.decoding.base.Drafter`.

    The last k rows, whose hidden states came from the target, are the block that is free to see itself; older ones
    are remembered as keys and values. Further blocks continue from the draft's own hidden states. It has nothing to
    say before it has seen k + 1 tokens.

    Args:
        draft: in eval mode.
        target: whose final hidden states it reads.
    """

    def __init__(self, draft: Falcon, target: CausalLM) -> None:
        self.draft = draft
        self.layers: tuple[int, ...] = (target.depth,)
        self._forget()

    def start(self, prompt: Tensor, layers: dict[int, Tensor] | None) -> None:
        self._forget()
        if prompt.shape[1] > 1:
            self._read(prompt[0, 1:], layers or {})

    def propose(self, k: int, sampler: Sampler) -> Proposal:
        draft, block = self.draft, self.draft.block
        if self._block is None or self._block.shape[1] < block:
            return nothing(draft)
        rows, state, memory, at = self._block, self._state, self._memory.guessing(), self._rows - block
        tokens: list[Tensor] = []
        probs: list[Tensor] = []
        while True:
            positions = torch.arange(at, at + block, device=rows.device)[None]
            (hidden,) = draft.layer(rows, positions, memory, mask=None, step=False)
            for logits in draft.spread(draft.lm_head(hidden[0, : k - len(tokens)])):
                token, drawn_from = sampler.pick(logits)
                tokens.append(token)
                if drawn_from is not None:
                    probs.append(drawn_from)
            if len(tokens) == k:
                return Proposal(torch.stack(tokens), torch.stack(probs) if probs else None)
            rows, state = draft.over_time(torch.stack(tokens[-block:])[None], hidden, state)
            at += block

    def accept(self, tokens: Tensor, layers: dict[int, Tensor] | None) -> None:
        self._read(tokens, layers or {})

    def _forget(self) -> None:
        self._memory, self._rows = Memory(), 0
        self._state: State | None = None
        self._block: Tensor | None = None

    def _read(self, tokens: Tensor, layers: dict[int, Tensor]) -> None:
        """Tokens (m,) and the target's hidden states (1, m, D) of the tokens before each."""
        features = layers[self.layers[0]].to(self.draft.lm_head.weight.dtype)
        rows, self._state = self.draft.over_time(tokens[None], features, self._state)
        rows = rows if self._block is None else torch.cat([self._block, rows], 1)
        self._rows += len(tokens)
        older = rows[:, : -self.draft.block]
        if older.shape[1]:
            first = self._rows - rows.shape[1]
            positions = torch.arange(first, first + older.shape[1], device=rows.device)[None]
            self.draft.layer.self_attn.remember(older, positions, self._memory)
        self._block = rows[:, -self.draft.block :]
