from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from kdcore_specdec.models.decoder import Attention, DraftLayer, Memory, SwiGLU, inner_width, rotate

THETA = 10000.0


def attention(inputs: int = 8, seed: int = 0) -> Attention:
    torch.manual_seed(seed)
    return Attention(inputs, 16, 4, 2, THETA).double()


def angles(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """As transformers computes them."""
    frequency = 1.0 / THETA ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = positions.unsqueeze(-1) * frequency
    both = torch.cat([angle, angle], -1)
    return both.cos(), both.sin()


def naive(layer: Attention, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """All of ``x`` as one sequence, with torch's attention and transformers' positions."""

    def split(y: Tensor, heads: int) -> Tensor:
        return y.view(*y.shape[:2], heads, layer.head_dim).transpose(1, 2)

    q, k, v = split(layer.q_proj(x), 4), split(layer.k_proj(x), 2), split(layer.v_proj(x), 2)
    q, k = apply_rotary_pos_emb(q, k, *angles(positions, layer.head_dim))
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    return layer.o_proj(out.transpose(1, 2).flatten(2))


def causal(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril()[None, None]


def test_positions_are_those_of_llama() -> None:
    x, positions = torch.randn(2, 3, 5, 8).double(), torch.tensor([[0, 1, 2, 300, 4000]]).expand(2, 5)
    expected, _ = apply_rotary_pos_emb(x, x, *angles(positions, 8))
    torch.testing.assert_close(rotate(x, positions, THETA), expected, atol=1e-3, rtol=0)


def test_half_precision_still_tells_far_positions_apart() -> None:
    x = torch.ones(1, 1, 2, 8, dtype=torch.bfloat16)
    turned = rotate(x, torch.tensor([[1000, 1001]]), THETA)
    expected = rotate(x.float(), torch.tensor([[1000, 1001]]), THETA)
    torch.testing.assert_close(turned.float(), expected, atol=0.02, rtol=0)


def test_rows_attend_like_any_grouped_query_attention() -> None:
    layer, x = attention(), torch.randn(2, 6, 8).double()
    positions = torch.arange(6).expand(2, 6)
    found = layer(x, positions, Memory(), mask=causal(6), step=False)
    torch.testing.assert_close(found, naive(layer, x, positions, causal(6)), atol=1e-6, rtol=1e-6)


def test_rows_that_are_read_in_parts_are_read_alike() -> None:
    layer, x, memory = attention(), torch.randn(1, 6, 8).double(), Memory()
    at = torch.arange(6)[None]
    first = layer(x[:, :4], at[:, :4], memory, mask=causal(4), step=False)
    last = layer(x[:, 4:], at[:, 4:], memory, mask=causal(6)[:, :, 4:], step=False)
    torch.testing.assert_close(torch.cat([first, last], 1), naive(layer, x, at, causal(6)), atol=1e-6, rtol=1e-6)


def test_a_guess_of_each_row_sees_that_row_s_past_and_its_own_guesses_only() -> None:
    layer, rows, steps = attention(), torch.randn(1, 5, 8).double(), torch.randn(2, 1, 5, 8).double()
    memory, at = Memory(), torch.arange(5)[None]
    layer(rows, at, memory, mask=causal(5), step=False)
    found = [layer(one, at + j, memory, mask=causal(5), step=True) for j, one in enumerate(steps, 1)]
    for t in range(5):
        sequence = torch.cat([rows[:, : t + 1], steps[:, 0, t : t + 1].transpose(0, 1)], 1)
        wanted = naive(layer, sequence, torch.arange(t + 3)[None], causal(t + 3))[:, -2:]
        torch.testing.assert_close(torch.stack([one[:, t] for one in found], 1), wanted, atol=1e-6, rtol=1e-6)


def test_guesses_leave_the_memory_they_start_from_as_it_is() -> None:
    layer, x, memory = attention(), torch.randn(1, 3, 8).double(), Memory()
    layer(x, torch.arange(3)[None], memory, mask=None, step=False)
    guessing = memory.guessing()
    layer(x[:, :1], torch.tensor([[3]]), guessing, mask=None, step=True)
    layer(x[:, :1], torch.tensor([[3]]), guessing, mask=None, step=False)
    assert memory.steps == []
    assert memory.rows is not None
    assert memory.rows[0].shape[2] == 3


def test_remembering_is_reading_without_asking() -> None:
    layer, x = attention(), torch.randn(1, 4, 8).double()
    at, told, read = torch.arange(4)[None], Memory(), Memory()
    layer.remember(x, at, told)
    layer(x, at, read, mask=None, step=False)
    assert told.rows is not None
    assert read.rows is not None
    for ours, theirs in zip(told.rows, read.rows, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_guess_without_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="a guess continues a row, and there is none"):
        attention()(torch.randn(1, 1, 8).double(), torch.tensor([[0]]), Memory(), mask=None, step=True)


@pytest.mark.parametrize(("width", "heads", "kv_heads"), [(16, 3, 3), (16, 4, 3), (12, 4, 4)])
def test_heads_that_do_not_share_out_the_width_are_refused(width: int, heads: int, kv_heads: int) -> None:
    said = f"width={width}, heads={heads} and kv_heads={kv_heads}: the heads must divide the width into an even number "
    with pytest.raises(ValueError, match=said):
        Attention(8, width, heads, kv_heads, THETA)


def test_the_feed_forward_part_is_gated_by_itself_or_by_another() -> None:
    net, x, gate = SwiGLU(4, 6, 3), torch.randn(2, 4), torch.randn(2, 4)
    torch.testing.assert_close(net(x), net.down_proj(silu(net.gate_proj(x)) * net.up_proj(x)))
    torch.testing.assert_close(net(x, gate), net.down_proj(silu(net.gate_proj(gate)) * net.up_proj(x)))


def test_the_inner_width_is_llamas_unless_given() -> None:
    assert inner_width(96, None) == 256
    assert inner_width(16, None) == 48
    assert inner_width(16, 5) == 5


def test_each_output_of_a_layer_is_the_attention_and_its_own_half() -> None:
    torch.manual_seed(0)
    layer, x = DraftLayer(Attention(16, 16, 4, 4, THETA), 16, 24, eps=1e-6, outputs=2), torch.randn(1, 3, 16)
    at = torch.arange(3)[None]
    first, second = layer(x, at, Memory(), mask=causal(3), step=False)
    attended = x + layer.self_attn(x, at, Memory(), mask=causal(3), step=False)
    fed = layer.mlp(layer.post_attention_layernorm(attended))
    torch.testing.assert_close(first, attended + fed[..., :16])
    torch.testing.assert_close(second, attended + fed[..., 16:])
