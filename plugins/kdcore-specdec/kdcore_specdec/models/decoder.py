"""The parts of a draft's decoder layer, named as the speculators format names their weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Memory:
    """Keys and values (N, H, S, d) that an attention layer has seen.

    Attributes:
        rows: of tokens whose features came from the target; what a query sees of them, a mask says.
        steps: of the draft's own guesses, one by one. A guess continues one row, and only that row's next guesses see
            it: position t of a query sees position t of each step. With one row, this is decoding; with all rows of a
            sequence at once, it is the same thing for every row in parallel, the training-time test.
    """

    rows: tuple[Tensor, Tensor] | None = None
    steps: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add_rows(self, keys: Tensor, values: Tensor) -> None:
        if self.rows is not None:
            keys, values = (torch.cat([old, new], 2) for old, new in zip(self.rows, (keys, values), strict=True))
        self.rows = keys, values

    def guessing(self) -> Memory:
        """The same rows, no guesses yet."""
        return Memory(self.rows)


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions, over rows and steps of a :class:`Memory`.

    Args:
        inputs: width of what it reads.
        width: of what it returns.
        heads: of the queries, sharing ``kv_heads`` of keys and values.
        rope_theta: base of the rotary frequencies.
    """

    def __init__(self, inputs: int, width: int, heads: int, kv_heads: int, rope_theta: float) -> None:
        super().__init__()
        if width % heads or heads % kv_heads or (width // heads) % 2:
            raise ValueError(
                f"width={width}, heads={heads} and kv_heads={kv_heads}: the heads must divide the width "
                "into an even number each, and kv_heads must divide heads"
            )
        self.head_dim, self.groups, self.rope_theta = width // heads, heads // kv_heads, rope_theta
        self.q_proj = nn.Linear(inputs, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(inputs, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(inputs, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, width, bias=False)

    def forward(self, x: Tensor, positions: Tensor, memory: Memory, *, mask: Tensor | None, step: bool) -> Tensor:
        """(N, T, inputs) -> (N, T, width); keys and values of ``x`` join the memory first.

        Args:
            positions: int64 (N, T).
            mask: bool (N, 1, T, S), the rows that each query sees; ``None`` for all.
            step: ``x`` are guesses, not rows.
        """
        query = rotate(self._split(self.q_proj(x)), positions, self.rope_theta)
        self.remember(x, positions, memory, step=step)
        out: Tensor = self.o_proj(self._attend(query, memory, mask).transpose(1, 2).flatten(2))
        return out

    def remember(self, x: Tensor, positions: Tensor, memory: Memory, *, step: bool = False) -> None:
        """Add the keys and values of ``x`` to the memory, and ask nothing."""
        key, value = rotate(self._split(self.k_proj(x)), positions, self.rope_theta), self._split(self.v_proj(x))
        if step:
            memory.steps.append((key, value))
        else:
            memory.add_rows(key, value)

    def _attend(self, query: Tensor, memory: Memory, mask: Tensor | None) -> Tensor:
        if memory.rows is None:
            raise ValueError("a guess continues a row, and there is none")
        shared = [(self._shared(key), self._shared(value)) for key, value in (memory.rows, *memory.steps)]
        (keys, values), steps = shared[0], shared[1:]
        scores = query @ keys.transpose(2, 3)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        own = [(query * key).sum(-1, keepdim=True) for key, _ in steps]
        weights = torch.softmax(torch.cat([scores, *own], -1).float() * self.head_dim**-0.5, -1).to(query.dtype)
        rows = keys.shape[2]
        out = weights[..., :rows] @ values
        for i, (_, value) in enumerate(steps, rows):
            out = out + weights[..., i : i + 1] * value
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(N, S, heads x d) -> (N, heads, S, d)."""
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)

    def _shared(self, x: Tensor) -> Tensor:
        """(N, kv_heads, S, d) -> (N, heads, S, d)."""
        return x if self.groups == 1 else x.repeat_interleave(self.groups, 1)


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotary position embedding of (N, H, T, d): the first half of the axis is paired with the second, as in Llama."""
    half = x.shape[-1] // 2
    # in float32, whatever the weights are: bf16 cannot tell positions beyond 256 apart
    frequency = theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = (positions.unsqueeze(-1) * frequency).unsqueeze(1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class SwiGLU(nn.Module):
    """``down(silu(gate(g)) * up(x))``, with g = x unless given."""

    def __init__(self, width: int, inner: int, out: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, out, bias=False)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """(..., width) -> (..., out)."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x if gate is None else gate)) * self.up_proj(x))
        return out


def inner_width(width: int, hidden: int | None) -> int:
    """Of the feed-forward part: what was asked for, or 8/3 of the width, rounded up to a multiple of 8, as in Llama."""
    return hidden or 8 * (-(-width // 3))


class DraftLayer(nn.Module):
    """A decoder layer without a norm before its attention, as EAGLE's first layer is.

    Args:
        outputs: 2 for a feed-forward part that is twice as wide; what the attention gave is added to either half.
    """

    def __init__(self, attention: Attention, width: int, inner: int, *, eps: float, outputs: int = 1) -> None:
        super().__init__()
        self.outputs = outputs
        self.self_attn = attention
        self.post_attention_layernorm = nn.RMSNorm(width, eps=eps)
        self.mlp = SwiGLU(width, inner, outputs * width)

    def forward(
        self, x: Tensor, positions: Tensor, memory: Memory, *, mask: Tensor | None, step: bool
    ) -> tuple[Tensor, ...]:
        """(N, T, D) -> ``outputs`` of (N, T, D); the rest as for :class:`Attention`."""
        x = x + self.self_attn(x, positions, memory, mask=mask, step=step)
        return tuple(x + part for part in self.mlp(self.post_attention_layernorm(x)).chunk(self.outputs, -1))
