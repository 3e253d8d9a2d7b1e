from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from kdcore_detection.models.regions import pooled

HEIGHT, WIDTH = 256, 384


def levels(seed: int = 0, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, HEIGHT // 2**l, WIDTH // 2**l, generator=generator) for l in range(2, 2 + count)]  # noqa: E741


def boxes(seed: int = 1) -> Tensor:
    """(2, 40, 4), of all sizes; the last one of each image is all of it."""
    a, b = (torch.rand(2, 40, 2, generator=torch.Generator().manual_seed(seed + i)) for i in range(2))
    side = torch.tensor([WIDTH, HEIGHT])
    made = torch.cat([torch.minimum(a, b) * side, torch.maximum(a, b) * side], -1)
    made[:, 0] = torch.tensor([200.0, 100.0, 230.0, 120.0])
    made[:, -1] = torch.tensor([0.0, 0.0, WIDTH, HEIGHT])
    return made


def by_torchvision(maps: list[Tensor], given: Tensor) -> Tensor:
    names = [str(i) for i in range(len(maps))]
    pool = MultiScaleRoIAlign(names, 7, 2)
    found: Tensor = pool(OrderedDict(zip(names, maps, strict=True)), list(given), [(HEIGHT, WIDTH)] * 2)
    return found


@pytest.mark.parametrize("count", [4, 3, 2])
def test_it_is_torchvision_s_but_for_cells_beyond_the_end(count: int):
    maps, given = levels(count=count), boxes()
    ours, theirs = pooled(maps, given, finest=2, side=7), by_torchvision(maps, given)
    thinnest = (given[..., 2:] - given[..., :2]).amin(-1).flatten()
    wide = thinnest >= 32  # at least a cell of the coarsest level
    assert wide.sum() > 30
    torch.testing.assert_close(ours[wide], theirs[wide], rtol=1e-4, atol=1e-5)


def test_a_thin_box_in_the_middle_is_as_wide_as_a_cell():
    given = torch.tensor([[[101.0, 80.0, 102.0, 95.0]]] * 2)
    torch.testing.assert_close(pooled(levels(), given, finest=2, side=7), by_torchvision(levels(), given))


def test_a_thin_box_at_the_end_is_moved_inside():
    at_the_end = torch.tensor([[[WIDTH - 1.0, 80.0, WIDTH, 84.0]]] * 2)
    last_cell = torch.tensor([[[WIDTH - 4.0, 80.0, WIDTH, 84.0]]] * 2)
    found = pooled(levels(), at_the_end, finest=2, side=7)
    torch.testing.assert_close(found, by_torchvision(levels(), last_cell))


def test_sizes_choose_levels():
    maps = [torch.full((1, 1, HEIGHT // 2**l, WIDTH // 2**l), float(l)) for l in range(2, 6)]  # noqa: E741
    sides = torch.tensor([20.0, 100.0, 120.0, 223.0, 225.0])
    given = torch.stack([torch.zeros(5), torch.zeros(5), sides, sides], -1)[None]
    found = pooled(maps, given, finest=2, side=2)
    assert found[:, 0, 0, 0].tolist() == [2.0, 2.0, 3.0, 3.0, 4.0]


def test_images_do_not_mix():
    maps = levels()
    changed = [torch.cat([level[:1], 9 * level[1:]]) for level in maps]
    before, after = (pooled(each, boxes(), finest=2, side=3) for each in (maps, changed))
    assert torch.equal(before[:40], after[:40])
    assert not torch.equal(before[40:], after[40:])


def test_empty_boxes_and_half_precision_are_no_nan():
    found = pooled([level.bfloat16() for level in levels()], torch.zeros(2, 3, 4), finest=2, side=7)
    assert found.dtype == torch.float32
    assert found.isfinite().all()


def test_the_gradient_is_torchvision_s():
    ours_at, theirs_at = ([level.requires_grad_() for level in levels()] for _ in range(2))
    given = boxes()[:, -1:]
    pooled(ours_at, given, finest=2, side=7).square().sum().backward()
    by_torchvision(theirs_at, given).square().sum().backward()
    for ours, theirs in zip(ours_at, theirs_at, strict=True):
        expected = torch.zeros_like(ours) if theirs.grad is None else theirs.grad
        torch.testing.assert_close(ours.grad, expected, rtol=1e-4, atol=1e-4)


def test_nothing_waits_for_the_device():
    found = pooled([level.to("meta") for level in levels()], boxes().to("meta"), finest=2, side=7)
    assert found.shape == (80, 3, 7, 7)
