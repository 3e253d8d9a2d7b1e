from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dense import naive_focal, naive_giou, naive_sigmoid, outputs, targets, without
from kdcore.signals import Batch, Signals
from kdcore.testing import check_loss
from tiny import CLASSES, detector
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.fcos import FCOSHead

from kdcore_detection.losses.fcos import FCOSLoss


def naive(student: Signals, teacher: Signals, batch: Batch) -> dict[str, float]:
    """Position by position; means over those with a box."""
    sums, count = dict.fromkeys(("classification", "box", "quality"), 0.0), 0
    for n, row in enumerate(student["assigned"].tolist()):
        for a, index in enumerate(row):
            if index == -2:
                continue
            label = int(batch["box_labels"][n, index]) if index >= 0 else None
            for c, x in enumerate(student["logits"][n, a].tolist()):
                sums["classification"] += naive_focal(x, c == label)
            if index < 0:
                continue
            count += 1
            box = batch["boxes"][n, index].tolist()
            sums["box"] += 1 - naive_giou(student["boxes"][n, a].tolist(), box)
            x1, y1, x2, y2 = student["anchors"][n, a].tolist()
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            left, top, right, bottom = x - box[0], y - box[1], box[2] - x, box[3] - y
            across, down = min(left, right) / max(left, right), min(top, bottom) / max(top, bottom)
            target, p = math.sqrt(across * down), naive_sigmoid(student["quality"][n, a].item())
            sums["quality"] -= target * math.log(p) + (1 - target) * math.log(1 - p)
    return {name: value / max(1, count) for name, value in sums.items()}


def test_as_written_out():
    student, batch = outputs("fcos", 4)
    check_loss(FCOSLoss, student=student, batch=batch, reference=naive, only=["reference"])


def test_as_torchvision():
    student, batch = outputs("fcos", 2, box_ignore=torch.zeros(2, 2, dtype=torch.bool))
    net = detector().eval()
    with torch.no_grad():
        raw = net.finish("box", 0, net.backbone(batch["image"])) + 0.1  # no side at 0, where slopes are a choice
    head: Any = SimpleNamespace(box_coder=BoxLinearCoder(normalize_by_size=True))
    given = {
        "cls_logits": student["logits"].requires_grad_(),
        "bbox_regression": raw.requires_grad_(),
        "bbox_ctrness": student["quality"].unsqueeze(-1).requires_grad_(),
    }
    theirs = FCOSHead.compute_loss(head, targets(batch), given, list(student["anchors"]), list(student["assigned"]))
    signals = {**student, "quality": given["bbox_ctrness"].squeeze(-1), "boxes": net.decode(raw, student["anchors"])}
    ours = FCOSLoss()(signals, {}, batch)
    names = {"classification": "classification", "box": "bbox_regression", "quality": "bbox_ctrness"}
    for name, total in ours.items():
        torch.testing.assert_close(total.sum / total.count, theirs[names[name]])
    whole = [sum(total.sum / total.count for total in ours.values()), sum(theirs.values())]
    gradients = [torch.autograd.grad(value, list(given.values())) for value in whole]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)
    assert all(g.abs().sum() > 0 for g in gradients[0])


def test_background_alone_is_learned_too():
    student, batch = outputs("fcos")
    found = FCOSLoss()(without(student, batch, boxes=True), {}, batch)
    assert [int(total.count) for total in found.values()] == [0, 0, 0]
    expected = sum(naive_focal(x, False) for x in student["logits"].flatten().tolist())
    assert found["classification"].sum.item() == pytest.approx(expected, rel=1e-5)
    assert found["box"].sum == found["quality"].sum == 0


def test_an_image_that_is_not_known_has_no_term():
    student, batch = outputs("fcos")
    student["logits"].requires_grad_()
    found = FCOSLoss()(without(student, batch, boxes=False), {}, batch)
    assert found["classification"].sum == 0
    found["classification"].sum.backward()
    assert not student["logits"].grad.any()  # type: ignore[union-attr]


def test_boxes_of_the_background_do_not_matter():
    student, batch = outputs("fcos")
    wild = torch.where((student["assigned"] >= 0).unsqueeze(-1), student["boxes"], torch.nan).requires_grad_()
    found = FCOSLoss()({**student, "boxes": wild}, {}, batch)
    torch.testing.assert_close(found["box"], FCOSLoss()(student, {}, batch)["box"])
    found["box"].sum.backward()
    assert wild.grad is not None
    assert wild.grad.isfinite().all()


def test_a_perfect_answer_costs_only_the_entropy_of_the_quality():
    student, batch = outputs("fcos", 1)
    at = student["assigned"][0].clamp(min=0)
    boxes = batch["boxes"][0][at]
    sure = torch.where(
        (batch["box_labels"][0][at].unsqueeze(1) == torch.arange(CLASSES)) & (student["assigned"][0] >= 0).unsqueeze(1),
        40.0,
        -40.0,
    )
    found = FCOSLoss()({**student, "boxes": boxes.unsqueeze(0), "logits": sure.unsqueeze(0)}, {}, batch)
    assert found["classification"].sum.item() == pytest.approx(0, abs=1e-6)
    assert found["box"].sum.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("given", [{"alpha": 2.0}, {"gamma": -1.0}])
def test_numbers_that_cannot_be(given: dict[str, float]):
    with pytest.raises(ValueError, match=f"{next(iter(given))}="):
        FCOSLoss(**given)
