from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dense import naive_focal, outputs, targets, without
from kdcore.signals import Batch, Signals
from kdcore.testing import check_loss
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from kdcore_detection.losses.retinanet import RetinaNetLoss


def naive(student: Signals, teacher: Signals, batch: Batch, beta: float = 0.0) -> dict[str, float]:
    """Anchor by anchor; means over those with a box."""
    sums, count = {"classification": 0.0, "box": 0.0}, 0
    logits, deltas, anchors = (student[name].tolist() for name in ("logits", "deltas", "anchors"))
    for n, row in enumerate(student["assigned"].tolist()):
        for a, index in enumerate(row):
            if index == -2:
                continue
            label = int(batch["box_labels"][n, index]) if index >= 0 else None
            sums["classification"] += sum(naive_focal(x, c == label) for c, x in enumerate(logits[n][a]))
            if index < 0:
                continue
            count += 1
            for given, wanted in zip(deltas[n][a], naive_deltas(anchors[n][a], batch["boxes"][n, index]), strict=True):
                d = abs(given - wanted)
                sums["box"] += d**2 / (2 * beta) if d < beta else d - beta / 2
    return {name: value / max(1, count) for name, value in sums.items()}


def naive_deltas(anchor: list[float], box: Any) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    dx, dy = (x1 + x2 - anchor[0] - anchor[2]) / 2 / width, (y1 + y2 - anchor[1] - anchor[3]) / 2 / height
    return [dx, dy, math.log((x2 - x1) / width), math.log((y2 - y1) / height)]


def test_as_written_out():
    student, batch = outputs("retinanet", 4)
    check_loss(RetinaNetLoss, student=student, batch=batch, reference=naive, only=["reference"])


def test_smooth_l1_as_written_out():
    student, batch = outputs("retinanet", 2)
    total = RetinaNetLoss(beta=0.5)(student, {}, batch)["box"]
    assert (total.sum / total.count).item() == pytest.approx(naive(student, {}, batch, beta=0.5)["box"], rel=1e-5)


def test_as_torchvision_on_one_image():
    """It takes the mean of the images' means, which for one image is ours."""
    student, batch = outputs("retinanet", 1, box_ignore=torch.zeros(1, 2, dtype=torch.bool))
    given = {"cls_logits": student["logits"].requires_grad_(), "bbox_regression": student["deltas"].requires_grad_()}
    classes: Any = SimpleNamespace(BETWEEN_THRESHOLDS=-2)
    boxes: Any = SimpleNamespace(_loss_type="l1", box_coder=BoxCoder((1.0, 1.0, 1.0, 1.0)))
    matches = list(student["assigned"])
    theirs = {
        "classification": RetinaNetClassificationHead.compute_loss(classes, targets(batch), given, matches),
        "box": RetinaNetRegressionHead.compute_loss(boxes, targets(batch), given, list(student["anchors"]), matches),
    }
    ours = RetinaNetLoss()(student, {}, batch)
    assert (student["assigned"] == -2).any()
    for name, total in ours.items():
        torch.testing.assert_close(total.sum / total.count, theirs[name])
    whole = [sum(total.sum / total.count for total in ours.values()), sum(theirs.values())]
    gradients = [torch.autograd.grad(value, list(given.values())) for value in whole]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)
    assert all(g.abs().sum() > 0 for g in gradients[0])


def test_background_alone_is_learned_too():
    student, batch = outputs("retinanet")
    found = RetinaNetLoss()(without(student, batch, boxes=True), {}, batch)
    expected = sum(naive_focal(x, False) for x in student["logits"].flatten().tolist())
    assert found["classification"].sum.item() == pytest.approx(expected, rel=1e-4)
    assert found["box"].sum == found["box"].count == found["classification"].count == 0


def test_an_image_that_is_not_known_has_no_term():
    student, batch = outputs("retinanet")
    found = RetinaNetLoss()(without(student, batch, boxes=False), {}, batch)
    assert found["classification"].sum == found["box"].sum == 0


@pytest.mark.parametrize("given", [{"alpha": -0.5}, {"gamma": -1.0}, {"beta": -0.1}])
def test_numbers_that_cannot_be(given: dict[str, float]):
    with pytest.raises(ValueError, match=f"{next(iter(given))}="):
        RetinaNetLoss(**given)
