from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dense import naive_giou, naive_iou, naive_sigmoid, outputs, without
from kdcore.signals import Batch, Signals
from kdcore.testing import check_loss
from torch import Tensor

from kdcore_detection.losses.gfl import GFLLoss, distribution_focal


def naive(student: Signals, teacher: Signals, batch: Batch) -> dict[str, float]:
    """Position by position; means over those with a box."""
    sums, count = dict.fromkeys(("quality", "box", "distribution"), 0.0), 0
    for n, row in enumerate(student["assigned"].tolist()):
        for a, index in enumerate(row):
            if index == -2:
                continue
            scores = [naive_sigmoid(x) for x in student["logits"][n, a].tolist()]
            box, given = batch["boxes"][n, max(0, index)].tolist(), student["boxes"][n, a].tolist()
            for c, p in enumerate(scores):
                y = naive_iou(given, box) if index >= 0 and c == int(batch["box_labels"][n, index]) else 0.0
                sums["quality"] -= abs(y - p) ** 2 * (y * math.log(p) + (1 - y) * math.log(1 - p))
            if index < 0:
                continue
            count += 1
            sums["box"] += 2 * max(scores) * (1 - naive_giou(given, box))
            sums["distribution"] += max(scores) * naive_distribution(student, n, a, box) / 4
    return {name: value / max(1, count) for name, value in sums.items()}


def naive_distribution(student: Signals, n: int, a: int, box: list[float]) -> float:
    x1, y1, x2, y2 = student["anchors"][n, a].tolist()
    x, y, stride = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1
    added = 0.0
    for side, distance in enumerate((x - box[0], y - box[1], box[2] - x, box[3] - y)):
        s = student["distribution"][n, a, side].softmax(0).tolist()
        d = min(max(distance / stride, 0.0), len(s) - 1.01)
        i = int(d)
        added -= (i + 1 - d) * math.log(s[i]) + (d - i) * math.log(s[i + 1])
    return added / 4


def test_as_written_out():
    student, batch = outputs("gfl", 4)
    check_loss(GFLLoss, student=student, batch=batch, reference=naive, only=["reference"])


def test_the_distribution_focal_loss_by_hand():
    s = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    assert distribution_focal(s, torch.tensor(1.25)).item() == pytest.approx(
        -0.75 * math.log(0.2) - 0.25 * math.log(0.3)
    )
    assert distribution_focal(s, torch.tensor(2.0)).item() == pytest.approx(-math.log(0.3))
    assert distribution_focal(s, torch.tensor(0.0)).item() == pytest.approx(-math.log(0.1))


def test_the_distribution_focal_loss_is_least_where_the_mean_is_the_distance():
    """Between two bins the best distribution lies on both, and its mean is the distance (eq. 6 of the paper)."""
    logits = torch.zeros(5, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        distribution_focal(logits, torch.tensor(2.3)).backward()
        optimizer.step()
    p = logits.detach().softmax(0)
    assert (p * torch.arange(5)).sum().item() == pytest.approx(2.3, abs=0.01)
    assert p[2].item() == pytest.approx(0.7, abs=0.01)


def test_a_distance_beyond_the_bins_is_taken_for_one_inside():
    student, batch = outputs("gfl", 1)
    far = {**batch, "boxes": batch["boxes"] * 100}
    found = GFLLoss()(student, {}, far)
    assert found["distribution"].sum.isfinite()
    assert found["distribution"].sum > 0


def test_the_quality_of_a_perfect_box_is_1():
    student, batch = outputs("gfl", 1)
    student["boxes"] = batch["boxes"][0][student["assigned"][0].clamp(min=0)].unsqueeze(0)
    positive = student["assigned"][0] >= 0
    sure = torch.full_like(student["logits"], -40.0)
    sure[0, positive, batch["box_labels"][0][student["assigned"][0][positive]]] = 40.0
    found = GFLLoss()({**student, "logits": sure}, {}, batch)
    assert found["quality"].sum.item() == pytest.approx(0, abs=1e-5)
    assert found["box"].sum.item() == pytest.approx(0, abs=1e-5)


def test_the_target_of_the_score_and_the_weight_of_the_box_have_no_gradient():
    student, batch = outputs("gfl")
    leaves = {name: student[name].requires_grad_() for name in ("logits", "boxes")}

    def gradient(name: str, of: str) -> Tensor | None:
        total = GFLLoss()({**student, **leaves}, {}, batch)[name]
        return torch.autograd.grad(total.sum, leaves[of], allow_unused=True)[0]

    assert gradient("quality", "boxes") is None
    assert gradient("box", "logits") is None
    assert gradient("box", "boxes") is not None


@pytest.mark.parametrize("name", ["box", "distribution"])
def test_weights(name: str):
    student, batch = outputs("gfl")
    usual, doubled = (GFLLoss(**given)(student, {}, batch) for given in ({}, _doubled(name)))
    for key in usual:
        factor = 2 if key == name else 1
        assert doubled[key].sum.item() == pytest.approx(factor * usual[key].sum.item())


def _doubled(name: str) -> dict[str, Any]:
    return {"box": {"box_weight": 4.0}, "distribution": {"distribution_weight": 0.5}}[name]


def test_background_alone_is_learned_too():
    student, batch = outputs("gfl")
    found = GFLLoss()(without(student, batch, boxes=True), {}, batch)
    expected = -sum(p**2 * math.log(1 - p) for p in map(naive_sigmoid, student["logits"].flatten().tolist()))
    assert found["quality"].sum.item() == pytest.approx(expected, rel=1e-4)
    assert found["box"].sum == found["distribution"].sum == found["box"].count == 0


def test_an_image_that_is_not_known_has_no_term():
    student, batch = outputs("gfl")
    found = GFLLoss()(without(student, batch, boxes=False), {}, batch)
    assert [total.sum.item() for total in found.values()] == [0, 0, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beta": 0.5}, "beta=0.5 is below 1: the slope would be infinite where the score is right"),
        ({"box_weight": -1.0}, "box_weight=-1.0 and distribution_weight=0.25: none is below 0"),
        ({"distribution_weight": -1.0}, "distribution_weight=-1.0: none is below 0"),
    ],
)
def test_numbers_that_cannot_be(given: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        GFLLoss(**given)
