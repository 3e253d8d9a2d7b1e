from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou

from kdcore_detection.matching import (
    DEAR,
    box_cost,
    focal_cost,
    known_objects,
    match,
    match_objects,
    match_pairs,
    relative,
    softmax_cost,
)

SIZE = (40, 60)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def boxes(seed: int, *shape: int) -> Tensor:
    """Boxes inside an image of 40x60, none empty."""
    corner, side = draw(seed, *shape, 2), draw(seed + 100, *shape, 2)
    low = corner * torch.tensor([40.0, 25.0])
    return torch.cat([low, low + 2 + side * torch.tensor([17.0, 12.0])], -1)


def cheapest(cost: np.ndarray) -> float:
    """Of all ways to pair rows with columns, one by one."""
    if cost.shape[0] > cost.shape[1]:
        cost = cost.T
    rows = range(cost.shape[0])
    return min(sum(cost[r, c] for r, c in zip(rows, order)) for order in permutations(range(cost.shape[1]), len(rows)))  # noqa: B905


def paid(cost: Tensor, found: Tensor) -> float:
    return sum(float(cost[q, m]) for q, m in enumerate(found.tolist()) if m >= 0)


# ---- match


@pytest.mark.parametrize(("queries", "targets"), [(5, 3), (3, 5), (4, 4), (1, 1)])
def test_it_pays_the_least(queries: int, targets: int):
    cost = draw(1, 2, 3, queries, targets)
    found = match(cost, torch.ones(2, targets, dtype=torch.bool))
    assert found.shape == (2, 3, queries)
    assert found.dtype == torch.int64
    for n in range(2):
        for layer in range(3):
            assert (found[n, layer] >= 0).sum() == min(queries, targets)
            assert paid(cost[n, layer], found[n, layer]) == pytest.approx(cheapest(cost[n, layer].numpy()), rel=1e-5)


def test_a_target_is_found_once_and_padding_by_nobody():
    is_target = torch.tensor([[True, False, True, True], [False, False, False, False]])
    cost = draw(2, 2, 3, 6, 4)
    cost[:, :, :, 1] = -5.0  # cheap, and no target
    found = match(cost, is_target)
    for layer in found[0]:
        assert sorted(layer.tolist()) == [-1, -1, -1, 0, 2, 3]
    assert (found[1] == -1).all()


def test_padding_changes_nothing():
    cost, is_target = draw(3, 1, 2, 6, 3), torch.ones(1, 3, dtype=torch.bool)
    longer = torch.cat([cost, torch.full((1, 2, 6, 2), -9.0)], -1)
    mask = torch.cat([is_target, torch.zeros(1, 2, dtype=torch.bool)], -1)
    assert torch.equal(match(cost, is_target), match(longer, mask))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, 1e30])
def test_what_is_no_number_is_taken_last(wrong: float):
    cost = torch.tensor([[[[0.1, 0.9], [wrong, wrong], [0.9, 0.8]]]])
    assert match(cost, torch.ones(1, 2, dtype=torch.bool)).tolist() == [[[0, -1, 1]]]


def test_a_cost_of_nothing_but_nan_still_gives_pairs():
    found = match(torch.full((1, 1, 3, 2), torch.nan), torch.ones(1, 2, dtype=torch.bool))
    assert sorted(found.flatten().tolist()) == [-1, 0, 1]


def test_minus_infinity_is_as_cheap_as_can_be():
    cost = torch.tensor([[[[-torch.inf], [-DEAR / 2]]]])
    assert match(cost, torch.ones(1, 1, dtype=torch.bool)).tolist() == [[[0, -1]]]


def test_it_has_a_shape_where_there_are_no_values_and_inside_of_a_compiled_step():
    cost, is_target = draw(4, 2, 3, 5, 4), torch.ones(2, 4, dtype=torch.bool)
    assert match(cost.to("meta"), is_target.to("meta")).shape == (2, 3, 5)
    step = torch.compile(lambda c, t: match(2 * c, t) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(step(cost, is_target), match(cost, is_target) + 1)


# ---- costs


def test_relative_by_hand():
    found = relative(torch.tensor([[6.0, 10.0, 18.0, 30.0]]), SIZE)
    assert found.tolist() == [[pytest.approx(0.2), pytest.approx(0.5), pytest.approx(0.2), pytest.approx(0.5)]]


def test_softmax_cost_is_minus_the_probability():
    logits, labels = (
        3 * torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(5)),
        torch.tensor([[1, 0], [3, -100]]),
    )
    found = softmax_cost(logits, labels)
    for n, q, m in [(0, 0, 0), (0, 2, 1), (1, 1, 0)]:
        p = logits[n, q].exp() / logits[n, q].exp().sum()
        assert found[n, q, m].item() == pytest.approx(-p[labels[n, m]].item(), rel=1e-5)
    assert found.isfinite().all()


def test_focal_cost_by_hand():
    logits, labels = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[1, 0]])
    p = 1 / (1 + np.exp(-2.0))
    likely = 0.25 * (1 - p) ** 2 * -np.log(p) - 0.75 * p**2 * -np.log(1 - p)
    even = 0.25 * 0.25 * np.log(2) - 0.75 * 0.25 * np.log(2)
    assert focal_cost(logits, labels)[0, 0].tolist() == [pytest.approx(likely, rel=1e-4), pytest.approx(even, rel=1e-4)]


def test_focal_cost_is_finite_where_probabilities_are_0_and_1():
    assert focal_cost(torch.tensor([[[200.0, -200.0]]]), torch.tensor([[0, 1]])).isfinite().all()


def test_box_cost_pair_by_pair():
    ours, theirs = boxes(1, 2, 4), boxes(2, 2, 3)
    found = box_cost(ours, theirs, SIZE, l1=5.0, giou_weight=2.0)
    for n in range(2):
        apart = (relative(ours[n], SIZE)[:, None] - relative(theirs[n], SIZE)).abs().sum(-1)
        expected = 5 * apart - 2 * generalized_box_iou(ours[n], theirs[n])
        torch.testing.assert_close(found[n], expected)


# ---- match_objects


@pytest.fixture
def batch() -> dict[str, Any]:
    made = boxes(7, 2, 3)
    labels = torch.tensor([[0, 2, 1], [1, -100, -100]])
    made[1, 1:] = 0.0
    return {"image": torch.zeros(2, 3, *SIZE), "boxes": made, "box_labels": labels}


def aimed(batch: dict[str, Any], classes: int, queries: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Logits and boxes of one layer whose queries say exactly these objects; -1 is a box in the corner, of no class."""
    logits, made = torch.full((2, 1, len(queries[0]), classes), -6.0), torch.zeros(2, 1, len(queries[0]), 4)
    for n, row in enumerate(queries):
        for q, m in enumerate(row):
            made[n, 0, q] = torch.tensor([56.0, 36.0, 59.0, 39.0]) if m < 0 else batch["boxes"][n, m]
            logits[n, 0, q, classes - 1 if m < 0 else int(batch["box_labels"][n, m])] = (
                6.0 if m >= 0 or classes == 4 else -6.0
            )
    return logits, made


@pytest.mark.parametrize("softmax", [True, False])
def test_queries_that_say_an_object_get_it(batch: dict[str, Any], softmax: bool):
    queries = [[2, -1, 0, 1], [-1, -1, 0, -1]]
    logits, made = aimed(batch, 4 if softmax else 3, queries)
    found = match_objects(logits, made, batch, softmax=softmax, l1=5.0, giou_weight=2.0)
    assert found[:, 0].tolist() == queries


def test_the_class_decides_between_equal_boxes(batch: dict[str, Any]):
    batch["boxes"][0, 1] = batch["boxes"][0, 0]
    logits, made = aimed(batch, 3, [[1, 0, 2], [0, -1, -1]])
    assert match_objects(logits, made, batch, softmax=False, l1=5.0, giou_weight=2.0)[0, 0].tolist() == [1, 0, 2]


def test_no_query_is_for_an_ignored_object_and_none_near_it_is_background(batch: dict[str, Any]):
    batch["box_ignore"] = torch.tensor([[False, True, False], [False, False, False]])
    logits, made = aimed(batch, 3, [[0, 1, 2, -1], [0, -1, -1, -1]])
    found = match_objects(logits, made, batch, softmax=False, l1=5.0, giou_weight=2.0)
    assert found[:, 0].tolist() == [[0, -2, 2, -1], [0, -1, -1, -1]]


def test_an_image_whose_boxes_are_not_known_has_no_terms(batch: dict[str, Any]):
    batch["boxes_known"] = torch.tensor([False, True])
    logits, made = aimed(batch, 3, [[0, 1, 2], [0, -1, -1]])
    found = match_objects(logits, made, batch, softmax=False, l1=5.0, giou_weight=2.0)
    assert found[:, 0].tolist() == [[-2, -2, -2], [0, -1, -1]]


def test_layers_are_matched_each_for_itself(batch: dict[str, Any]):
    first, second = aimed(batch, 3, [[0, 1, 2], [0, -1, -1]]), aimed(batch, 3, [[2, 0, 1], [-1, 0, -1]])
    logits, made = (torch.cat(pair, 1) for pair in zip(first, second, strict=True))
    found = match_objects(logits, made, batch, softmax=False, l1=5.0, giou_weight=2.0)
    assert found[0].tolist() == [[0, 1, 2], [2, 0, 1]]


def test_it_leaves_no_graph(batch: dict[str, Any]):
    logits, made = aimed(batch, 3, [[0, 1, 2], [0, -1, -1]])
    assert not match_objects(
        logits.requires_grad_(), made.requires_grad_(), batch, softmax=False, l1=5.0, giou_weight=2.0
    ).requires_grad


# ---- match_pairs


def test_positives_are_matched_first_and_with_the_queries_that_are_left_the_others():
    # the teacher's second query finds the object; the student's first is cheapest for all of the teacher's
    truth = torch.tensor([[[[0.9], [0.1], [0.5]]]])
    cost = torch.tensor([[[[0.0, 0.0, 0.0], [5.0, 3.0, 1.0], [1.0, 2.0, 9.0], [9.0, 9.0, 9.0]]]])
    pairs, positive = match_pairs(cost, truth, torch.ones(1, 1, dtype=torch.bool))
    assert positive.tolist() == [[[False, True, False]]]
    assert pairs.tolist() == [[[1, 2, 0, -1]]]


def test_without_objects_all_are_matched_at_once():
    cost = draw(8, 2, 2, 4, 4)
    pairs, positive = match_pairs(cost, draw(9, 2, 2, 4, 3), torch.zeros(2, 3, dtype=torch.bool))
    assert not positive.any()
    for n in range(2):
        for layer in range(2):
            assert paid(cost[n, layer], pairs[n, layer]) == pytest.approx(cheapest(cost[n, layer].numpy()), rel=1e-5)


def test_fewer_queries_than_the_teacher_has_go_to_positives():
    truth = torch.tensor([[[[0.0, 9.0], [9.0, 0.0], [5.0, 5.0], [5.0, 5.0]]]])
    pairs, positive = match_pairs(draw(10, 1, 1, 2, 4), truth, torch.ones(1, 2, dtype=torch.bool))
    assert positive.tolist() == [[[True, True, False, False]]]
    assert sorted(pairs.flatten().tolist()) == [0, 1]


def test_pairs_have_a_shape_where_there_are_no_values():
    cost, truth, is_target = torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 4, 6), torch.ones(2, 6, dtype=torch.bool)
    pairs, positive = match_pairs(cost.to("meta"), truth.to("meta"), is_target.to("meta"))
    assert (pairs.shape, positive.shape) == ((2, 3, 5), (2, 3, 4))
    assert (pairs.dtype, positive.dtype) == (torch.int64, torch.bool)


def test_both_wait_for_the_device_once(monkeypatch: pytest.MonkeyPatch):
    fetched: list[int] = []
    cpu = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda x: fetched.append(x.numel()) or cpu(x))
    cost, truth, is_target = draw(1, 2, 3, 5, 4), draw(2, 2, 3, 4, 6), torch.ones(2, 6, dtype=torch.bool)
    match(truth, is_target)
    assert fetched == [truth.numel() + is_target.numel()]
    match_pairs(cost, truth, is_target)
    assert fetched[1:] == [cost.numel() + truth.numel() + is_target.numel()]


def test_pairs_find_for_the_teacher_what_match_finds():
    truth, is_target = draw(3, 2, 3, 4, 6), torch.tensor([[True] * 6, [False, True, False, True, True, False]])
    _, positive = match_pairs(draw(4, 2, 3, 5, 4), truth, is_target)
    assert torch.equal(positive, match(truth, is_target) >= 0)


# ---- known_objects


def test_objects_that_are_known(batch: dict[str, Any]):
    assert known_objects(batch).tolist() == [[True] * 3, [True, False, False]]
    batch["box_ignore"] = torch.tensor([[False, True, False], [False] * 3])
    batch["boxes_known"] = torch.tensor([True, False])
    assert known_objects(batch).tolist() == [[True, False, True], [False] * 3]
