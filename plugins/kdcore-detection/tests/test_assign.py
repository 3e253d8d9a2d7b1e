from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.fcos import FCOS

from kdcore_detection.assign import (
    BACKGROUND,
    IGNORED,
    by_centre,
    by_iou,
    by_statistics,
    matched,
    settle,
    statistics,
)

LEVELS = {8: (8, 12), 16: (4, 6), 32: (2, 3)}
"""Stride -> rows and columns, of an image of 64x96."""
COUNTS = [96, 24, 6]

Assign = Callable[[Tensor, Tensor, Tensor], Tensor]


def points(side: float = 1.0) -> Tensor:
    """Squares of ``side`` strides around every point: (126, 4)."""
    made = []
    for stride, (rows, columns) in LEVELS.items():
        for row in range(rows):
            for column in range(columns):
                x, y, half = column * stride, row * stride, side * stride / 2
                made.append([x - half, y - half, x + half, y + half])
    return torch.tensor(made)


def scene(n: int = 4, m: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes (n, m, 4) with sides of 4 to 64, on no grid, and which are real: from all of the first image to none."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, m, 2, generator=generator) * torch.tensor([90.0, 58.0])
    boxes = torch.cat([corner, corner + 4 + 60 * torch.rand(n, m, 2, generator=generator)], -1)
    real = torch.arange(m) < torch.linspace(m, 0, n).round().unsqueeze(1)
    return torch.where(real.unsqueeze(-1), boxes, 0.0), real


CENTRE: dict[str, Any] = {"radius": 1.5, "reach": 4.0}
IOU: dict[str, Any] = {"above": 0.5, "below": 0.4}
ATSS: dict[str, Any] = {"levels": COUNTS, "candidates": 4}


def centre(anchors: Tensor, boxes: Tensor, real: Tensor) -> Tensor:
    return by_centre(anchors, boxes, real, **CENTRE)


def overlap(anchors: Tensor, boxes: Tensor, real: Tensor) -> Tensor:
    return by_iou(anchors, boxes, real, **IOU)


def atss(anchors: Tensor, boxes: Tensor, real: Tensor) -> Tensor:
    return by_statistics(anchors, boxes, real, **ATSS)


EVERY = [(centre, 1.0), (overlap, 3.0), (atss, 4.0)]


# --- against rules written out box by box


def naive_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def naive_centre(anchor: list[float], boxes: list[list[float]]) -> int:
    size, x, y = anchor[2] - anchor[0], (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
    best, smallest = BACKGROUND, math.inf
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        sides = x - x1, y - y1, x2 - x, y2 - y
        if min(sides) <= 0 or max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) >= CENTRE["radius"] * size:
            continue
        reach = CENTRE["reach"] * size
        if (size > 8 and max(sides) < reach / 2) or (size < 32 and max(sides) > reach):
            continue
        if (x2 - x1) * (y2 - y1) < smallest:
            best, smallest = i, (x2 - x1) * (y2 - y1)
    return best


def naive_overlap(anchors: list[list[float]], boxes: list[list[float]]) -> list[int]:
    found = []
    most = [max(naive_iou(anchor, box) for anchor in anchors) for box in boxes]
    for anchor in anchors:
        overlaps = [naive_iou(anchor, box) for box in boxes]
        if not boxes:
            found.append(BACKGROUND)
            continue
        best = max(range(len(boxes)), key=overlaps.__getitem__)
        is_best = any(one == top and top > 0 for one, top in zip(overlaps, most, strict=True))
        if overlaps[best] >= IOU["above"] or is_best:
            found.append(best)
        else:
            found.append(BACKGROUND if overlaps[best] < IOU["below"] else IGNORED)
    return found


def naive_threshold(anchors: list[list[float]], box: list[float]) -> tuple[list[int], float]:
    """The candidates of one box, and its threshold."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2

    def apart(i: int) -> float:
        a = anchors[i]
        return math.dist(((a[0] + a[2]) / 2, (a[1] + a[3]) / 2), (x, y))

    chosen, start = [], 0
    for count in COUNTS:
        chosen += sorted(range(start, start + count), key=apart)[: ATSS["candidates"]]
        start += count
    overlaps = [naive_iou(anchors[i], box) for i in chosen]
    mean = sum(overlaps) / len(overlaps)
    return chosen, mean + math.sqrt(sum((one - mean) ** 2 for one in overlaps) / (len(overlaps) - 1))


def naive_atss(anchors: list[list[float]], boxes: list[list[float]]) -> list[int]:
    found, best = [BACKGROUND] * len(anchors), [-1.0] * len(anchors)
    for index, box in enumerate(boxes):
        chosen, threshold = naive_threshold(anchors, box)
        for i in chosen:
            a, overlap = anchors[i], naive_iou(anchors[i], box)
            x, y = (a[0] + a[2]) / 2, (a[1] + a[3]) / 2
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if overlap >= threshold and inside and overlap > best[i]:
                found[i], best[i] = index, overlap
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("assign", "side"), EVERY)
def test_as_written_out(assign: Assign, side: float, seed: int):
    anchors, (boxes, real) = points(side).double(), scene(seed=seed)
    rows = anchors.tolist()
    for found, given, counts in zip(assign(anchors, boxes.double(), real), boxes.double(), real, strict=True):
        known = given[counts].tolist()
        if assign is centre:
            assert found.tolist() == [naive_centre(anchor, known) for anchor in rows]
        else:
            assert found.tolist() == (naive_overlap if assign is overlap else naive_atss)(rows, known)
    assert (assign(points(side), boxes, real)[0] >= 0).any()


# --- against torchvision


def test_points_are_assigned_as_in_torchvision(monkeypatch: pytest.MonkeyPatch):
    boxes, real = scene(n=3, m=6)
    boxes = boxes * 4  # so that all levels have some
    anchors = points() * 4
    net = FCOS.__new__(FCOS)
    torch.nn.Module.__init__(net)
    net.center_sampling_radius = 1.5
    seen: list[Tensor] = []
    net.head = torch.nn.Module()
    monkeypatch.setattr(net.head, "compute_loss", lambda *given: seen.extend(given[-1]), raising=False)
    targets = [{"boxes": each[counts]} for each, counts in zip(boxes, real, strict=True)]
    net.compute_loss(targets, {}, [anchors] * 3, COUNTS)
    assert torch.equal(by_centre(anchors, boxes, real, radius=1.5, reach=8.0), torch.stack(seen))
    assert len(torch.stack(seen).unique()) > 3


def test_anchors_are_assigned_as_in_torchvision():
    boxes, real = scene(n=2, m=6)
    real[:] = True
    boxes = scene(n=1, m=6)[0].expand(2, 6, 4)
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    theirs = matcher(torchvision.ops.box_iou(boxes[0], points(3.0)))
    assert torch.equal(by_iou(points(3.0), boxes, real, above=0.5, below=0.4)[0], theirs)
    assert theirs.unique().numel() > 4


# --- what all of them promise


@pytest.mark.parametrize(("assign", "side"), EVERY)
def test_an_image_without_boxes_is_background(assign: Assign, side: float):
    boxes, real = scene()
    assert (assign(points(side), boxes, real)[-1] == BACKGROUND).all()
    assert (assign(points(side), torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.bool)) == BACKGROUND).all()


@pytest.mark.parametrize(("assign", "side"), EVERY)
def test_more_padding_changes_nothing(assign: Assign, side: float):
    boxes, real = scene()
    longer = torch.cat([boxes, torch.zeros(4, 3, 4)], 1), torch.cat([real, torch.zeros(4, 3, dtype=torch.bool)], 1)
    assert torch.equal(assign(points(side), boxes, real), assign(points(side), *longer))


@pytest.mark.parametrize(("assign", "side"), EVERY)
def test_images_do_not_see_each_other(assign: Assign, side: float):
    boxes, real = scene()
    alone = torch.cat([assign(points(side), boxes[i : i + 1], real[i : i + 1]) for i in range(4)])
    assert torch.equal(assign(points(side), boxes, real), alone)


@pytest.mark.parametrize(("assign", "side"), EVERY)
def test_it_waits_for_no_device(assign: Assign, side: float):
    boxes, real = scene()
    found = assign(points(side).to("meta"), boxes.to("meta"), real.to("meta"))
    assert found.shape == (4, 126)
    assert found.dtype == torch.int64


# --- each of them alone


def test_a_box_on_the_border_of_two_levels_is_found_on_both():
    box = torch.tensor([[[0.0, 0.0, 64.0, 64.0]]])  # from (32, 32): 32 pixels each way, 4 strides of 8 and 2 of 16
    found = by_centre(points(), box, torch.ones(1, 1, dtype=torch.bool), radius=0.5, reach=4.0)[0]
    at = (found == 0).nonzero().flatten().tolist()
    assert at == [4 * 12 + 4, 96 + 2 * 6 + 2]


def test_of_two_boxes_a_point_gets_the_smaller_one():
    boxes = torch.tensor([[[16.0, 16.0, 48.0, 48.0], [20.0, 20.0, 44.0, 44.0]]])
    found = by_centre(points(), boxes, torch.ones(1, 2, dtype=torch.bool), **CENTRE)[0]
    assert found[4 * 12 + 4] == 1


def test_a_box_that_no_anchor_overlaps_gets_none():
    """torchvision would give it all anchors, as each overlaps it as much as the best."""
    boxes = torch.tensor([[[900.0, 900.0, 920.0, 920.0]]])
    assert (by_iou(points(3.0), boxes, torch.ones(1, 1, dtype=torch.bool), **IOU) == BACKGROUND).all()


def test_a_thin_box_gets_the_anchor_that_overlaps_it_most():
    boxes = torch.tensor([[[30.0, 0.0, 34.0, 64.0]]])
    found = by_iou(points(3.0), boxes, torch.ones(1, 1, dtype=torch.bool), **IOU)
    assert (found == 0).any()


def test_a_box_whose_best_anchor_overlaps_another_one_more_gets_none():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 4.0, 4.0]]])
    found = by_iou(anchors, boxes, torch.ones(1, 2, dtype=torch.bool), above=0.95, below=0.4)
    assert found.tolist() == [[0, BACKGROUND]]


def test_the_threshold_of_atss():
    anchors, (boxes, _) = points(4.0).double(), scene()
    at, overlaps, threshold = statistics(anchors, boxes.double(), **ATSS)
    assert at.shape == overlaps.shape == (4, 5, 12)
    chosen, expected = naive_threshold(anchors.tolist(), boxes[0, 2].double().tolist())
    assert sorted(at[0, 2].tolist()) == sorted(chosen)
    assert threshold[0, 2].item() == pytest.approx(expected)


def test_a_level_with_fewer_anchors_gives_all_it_has():
    at, _, threshold = statistics(points(4.0)[-6:], scene()[0], levels=[6], candidates=9)
    assert at.shape == (4, 5, 6)
    _, overlaps, threshold = statistics(points(4.0)[-1:], scene()[0], levels=[1], candidates=9)
    assert torch.equal(threshold, overlaps.squeeze(-1))  # one alone does not vary


# --- what is ignored


def test_background_inside_an_ignored_box_is_ignored():
    anchors = points()
    batch = {
        "boxes": torch.tensor([[[10.0, 10.0, 30.0, 30.0], [0.0, 0.0, 0.0, 0.0]]]),
        "box_labels": torch.tensor([[1, -100]]),
        "box_ignore": torch.tensor([[True, False]]),
    }
    assigned = torch.full((1, 126), BACKGROUND)
    assigned[0, 2 * 12 + 2] = 0  # the point (16, 16) has a box of its own
    found = settle(assigned, anchors, batch)[0]
    inside = [row * 12 + column for row in (2, 3) for column in (2, 3)]
    ignored = (found == IGNORED).nonzero().flatten().tolist()
    assert ignored == [*inside[1:], 96 + 6 + 1]  # on the next level (16, 16) as well
    assert found[inside[0]] == 0


def test_padding_that_is_marked_as_ignored_hides_nothing():
    batch = {
        "boxes": torch.tensor([[[0.0, 0.0, 96.0, 64.0]]]),
        "box_labels": torch.tensor([[-100]]),
        "box_ignore": torch.tensor([[True]]),
    }
    assert (settle(torch.full((1, 126), BACKGROUND), points(), batch) == BACKGROUND).all()


def test_an_image_whose_boxes_are_not_known_is_ignored():
    boxes, real = scene(n=2)
    assigned = centre(points(), boxes, torch.ones_like(real))
    found = settle(assigned, points(), {"boxes_known": torch.tensor([True, False])})
    assert torch.equal(found[0], assigned[0])
    assert (found[1] == IGNORED).all()


def test_what_belongs_to_each_position():
    assigned = torch.tensor([[1, BACKGROUND, 0], [0, IGNORED, 1]])
    labels, boxes = torch.tensor([[5, 6], [7, 8]]), torch.arange(16.0).view(2, 2, 4)
    assert matched(labels, assigned).tolist() == [[6, 5, 5], [7, 7, 8]]
    assert torch.equal(matched(boxes, assigned)[1, 2], boxes[1, 1])
