"""A language model that remembers what it has read, and can forget the end of it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdcore_specdec.models.causal import CausalLM, Output


class Cached:
    """One sequence through a model with a key-value cache.

    Args:
        model: in eval mode.
        layers: of which hidden states are wanted.
        can_forget: :meth:`forget` will be called after every read. Models with a sliding window or a running state then
            keep what they would otherwise have dropped.
    """

    def __init__(self, model: CausalLM, layers: tuple[int, ...] = (), *, can_forget: bool = False) -> None:
        from transformers import DynamicCache

        self.model, self.layers = model, layers
        self.past: Any = DynamicCache(config=model.lm.config)
        if can_forget and hasattr(self.past, "activate_past_recording"):
            self.past.activate_past_recording()

    def read(self, tokens: Tensor) -> Output:
        """Read (1, m) more tokens; without logits."""
        found: Output = self.model(tokens, past=self.past, use_cache=True, logits=False, layers=self.layers)
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return F.linear(hidden, self.model.head)

    def next_logits(self, tokens: Tensor) -> Tensor:
        """Read (1, m) more tokens; what comes after the last of them, (V,)."""
        return self.logits(self.read(tokens).hidden[0, -1])

    def forget(self, n: int) -> None:
        """Unread the last ``n`` tokens."""
        self.past.crop(-n)
