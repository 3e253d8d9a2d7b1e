from __future__ import annotations

import math

import torch

from kdcore_speech.models.conformer import Attention, Block, rotated


def test_pairs_of_channels_are_turned_by_their_place():
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    found = rotated(x)
    for time in range(5):
        for pair in range(3):
            angle = time * 10000 ** (-pair / 3)
            a, b = x[..., time, pair], x[..., time, pair + 3]
            torch.testing.assert_close(found[..., time, pair], a * math.cos(angle) - b * math.sin(angle))
            torch.testing.assert_close(found[..., time, pair + 3], a * math.sin(angle) + b * math.cos(angle))


def test_only_the_distance_of_two_frames_matters():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(8, generator=generator), torch.randn(8, generator=generator)
    everywhere = rotated(query.expand(1, 1, 9, 8)), rotated(key.expand(1, 1, 9, 8))
    products = everywhere[0][0, 0] @ everywhere[1][0, 0].T
    for distance in range(-8, 9):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert not torch.isclose(products[0, 0], products[0, 3])


def test_attention_as_computed_head_by_head():
    torch.manual_seed(0)
    layer = Attention(8, 2, 0.0)
    x, mask = torch.randn(1, 4, 8), torch.tensor([[True, True, True, False]])
    qkv = layer.qkv(layer.norm(x))[0]
    heads = []
    for head in range(2):
        query, key, value = (qkv[:, 8 * i + 4 * head : 8 * i + 4 * head + 4] for i in range(3))
        query, key = (rotated(one[None, None])[0, 0] for one in (query, key))
        scores = (query @ key.T / 2).masked_fill(~mask, -math.inf).softmax(-1)
        heads.append(scores @ value)
    torch.testing.assert_close(layer(x, mask)[0], layer.out(torch.cat(heads, 1)))


def test_a_block_hides_what_does_not_count():
    torch.manual_seed(0)
    block = Block(8, 2, 3, 0.0)
    x, mask = torch.randn(1, 6, 8), torch.tensor([[True] * 4 + [False] * 2])
    other = torch.where(mask.unsqueeze(-1), x, 100.0)
    torch.testing.assert_close(block(x, mask)[0, :4], block(other, mask)[0, :4])
