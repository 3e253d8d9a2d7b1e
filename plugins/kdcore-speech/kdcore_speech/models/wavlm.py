"""WavLM's attention, computed by one kernel, for any number of clips of any length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class RelativeAttention(nn.Module):
    """Attention whose bias of relative positions is gated by what the query is: in the place of ``WavLMAttention``.

    That of transformers keeps the weights of all heads, says with every batch that its masks are of two types, and
    exports for two clips or more.

    Args:
        own: of transformers; its parts are used.

    **Paper**: Chen et al., WavLM, 2021 (arXiv 2110.13900), section III-A.
    """

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own

    def bias(self, size: int) -> Tensor:
        """That of relative positions, which the first block's knows and all share: (heads, T, T)."""
        found: Tensor = self.own.compute_bias(size, size)
        return found

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, position_bias: Tensor, index: int = 0
    ) -> tuple[Tensor, None, Tensor]:
        """(N, T, D), bool (N, T), (heads, T, T) -> (N, T, D), and what its layer expects beside it."""
        own, x = self.own, hidden_states
        query, key, value = (self._split(part(x)) for part in (own.q_proj, own.k_proj, own.v_proj))
        bias = self._gate(x) * position_bias  # (N, heads, T, T)
        bias = bias.masked_fill(~attention_mask[:, None, None], -torch.inf).to(query.dtype)
        dropout = own.dropout if self.training else 0.0
        seen = scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        y: Tensor = own.out_proj(seen.transpose(1, 2).flatten(2))
        return y, None, position_bias

    def _gate(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, heads, T, 1), between 1 and 2 where the constant is 1."""
        told = self.own.gru_rel_pos_linear(self._split(x)).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        first, second = told[..., :1], told[..., 1:]
        gate: Tensor = first * (second * self.own.gru_rel_pos_const - 1.0) + 2.0
        return gate

    def _split(self, x: Tensor) -> Tensor:
        """(N, T, heads d) -> (N, heads, T, d)."""
        return torch.unflatten(x, -1, (self.own.num_heads, -1)).transpose(1, 2)
