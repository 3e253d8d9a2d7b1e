"""Binary classification distillation: both terms position by position, and what they are divided by."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from scene import totals
from torch import Tensor

from kdcore_detection.losses.bckd import BinaryClassification


def signals(seed: int, positions: int = 7, classes: int = 3) -> dict[str, Tensor]:
    """Of two images."""
    generator = torch.Generator().manual_seed(seed)
    low, side = (torch.rand(2, positions, 2, generator=generator) for _ in range(2))
    boxes = torch.cat([20 * low, 20 * low + 5 + 20 * side], -1)
    return {"logits": 2 * torch.randn(2, positions, classes, generator=generator) - 2, "boxes": boxes}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive_giou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return both / union - (hull - union) / hull


def naive(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> dict[str, Any]:
    classes = boxes = 0.0
    count = 0
    rows = [
        zip(*(given[name].double().flatten(0, 1).tolist() for name in ("logits", "boxes")), strict=True)
        for given in (student, teacher)
    ]
    for (s, box), (t, their_box) in zip(*rows, strict=True):
        p, y = [sigmoid(x) for x in s], [sigmoid(x) for x in t]
        gaps = [abs(a - b) for a, b in zip(p, y, strict=True)]
        classes -= sum(w * (b * math.log(a) + (1 - b) * math.log(1 - a)) for w, a, b in zip(gaps, p, y, strict=True))
        boxes += max(gaps) * (1 - naive_giou(box, their_box))
        count += max(y) > 0.05
    return {"classes": classes, "boxes": boxes, "count": count}


def test_both_terms_are_those_of_the_definition():
    student, teacher = signals(1), signals(2)
    found, truth = totals(BinaryClassification(boxes=1.0), student, teacher), naive(student, teacher)
    assert 0 < truth["count"] < 14
    for name in ("classes", "boxes"):
        assert found[name].sum.item() == pytest.approx(truth[name], rel=1e-5)
        assert found[name].count.item() == truth["count"]


def test_boxes_have_a_factor_of_four():
    student, teacher = signals(1), signals(2)
    plain, usual = (
        totals(loss, student, teacher) for loss in (BinaryClassification(boxes=1.0), BinaryClassification())
    )
    assert usual["boxes"].sum.item() == pytest.approx(4 * plain["boxes"].sum.item(), rel=1e-6)
    assert usual["classes"].sum == plain["classes"].sum


def test_a_student_that_equals_its_teacher_has_nothing_to_learn():
    teacher = signals(2)
    assert [total.sum.item() for total in totals(BinaryClassification(), teacher, teacher).values()] == [0.0, 0.0]


def test_every_class_is_a_question_of_its_own():
    """A softmax would not see a shift of all logits of a position."""
    teacher = signals(2)
    student = {**teacher, "logits": teacher["logits"] + 1}
    assert totals(BinaryClassification(), student, teacher)["classes"].sum > 0.1


def test_boxes_teach_boxes_and_classes_teach_classes():
    student, teacher = signals(1), signals(2)
    leaves = [student[name].requires_grad_() for name in ("logits", "boxes")]
    found = totals(BinaryClassification(), student, teacher)
    of_boxes = torch.autograd.grad(found["boxes"].sum, leaves, allow_unused=True, retain_graph=True)
    of_classes = torch.autograd.grad(found["classes"].sum, leaves, allow_unused=True)
    assert of_boxes[0] is None
    assert of_boxes[1].any()
    assert of_classes[0].any()
    assert of_classes[1] is None
    assert all(x.grad is None for x in teacher.values())


def test_boxes_that_are_apart_are_drawn_together():
    student, teacher = signals(1, positions=1), signals(2, positions=1)
    student["boxes"], teacher["boxes"] = torch.zeros(2, 1, 4), torch.zeros(2, 1, 4)
    student["boxes"][..., 2:], teacher["boxes"][..., :2], teacher["boxes"][..., 2:] = 2.0, 10.0, 12.0
    leaf = student["boxes"].requires_grad_()
    totals(BinaryClassification(), student, teacher)["boxes"].sum.backward()
    assert leaf.grad is not None
    assert (leaf.grad[..., 2:] < 0).all()


def test_a_teacher_that_sees_nothing_still_teaches_that():
    student, teacher = signals(1), signals(2)
    teacher["logits"] = torch.full((2, 7, 3), -8.0)
    found = totals(BinaryClassification(), student, teacher)["classes"]
    assert found.count.item() == 2  # one for each image
    assert found.sum > 0


def test_unknown_boxes_change_nothing():
    student, teacher = signals(1), signals(2)
    batch = {"box_labels": torch.full((2, 1), -100), "boxes_known": torch.zeros(2, dtype=torch.bool)}
    found, known = (totals(BinaryClassification(), student, teacher, given) for given in (batch, {}))
    assert found == known


def test_parts_of_a_batch_add_up():
    student, teacher = signals(1), signals(2)
    whole = totals(BinaryClassification(), student, teacher)
    parts = [
        totals(BinaryClassification(), *({k: x[n : n + 1] for k, x in given.items()} for given in (student, teacher)))
        for n in range(2)
    ]
    for name, total in whole.items():
        assert sum(part[name].count.item() for part in parts) == total.count.item()
        assert sum(part[name].sum.item() for part in parts) == pytest.approx(total.sum.item(), rel=1e-6)


def test_logits_without_bounds_stay_finite():
    student, teacher = signals(1), signals(2)
    student["logits"] = (1e4 * student["logits"].sign()).requires_grad_()
    teacher["logits"] = 1e4 * teacher["logits"].sign()
    student["boxes"] = torch.zeros(2, 7, 4, requires_grad=True)  # no area
    found = totals(BinaryClassification(), student, teacher)
    gradients = torch.autograd.grad(found["classes"].sum + found["boxes"].sum, list(student.values()))
    assert all(total.sum.isfinite() for total in found.values())
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", ["logits", "boxes"])
def test_other_strides_are_refused_with_what_to_do(name: str):
    student, teacher = signals(1), signals(2)
    teacher[name] = teacher[name][:, :5]
    said = f"the student's `{name}` have shape {tuple(student[name].shape)}, the teacher's {tuple(teacher[name].shape)}"
    with pytest.raises(ValueError, match=re.escape(said) + ".*other strides or anchors"):
        totals(BinaryClassification(), student, teacher)


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match="build both nets with the same classes"):
        totals(BinaryClassification(), signals(1), signals(2, classes=4))
