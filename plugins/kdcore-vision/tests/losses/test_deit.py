from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore_vision.losses.deit import HardLabels


def total(student: Tensor, teacher: Tensor, batch: dict[str, Any] | None = None, **given: Any):
    return HardLabels(**given)({"distillation_token": student}, {"logits": teacher}, batch or {})


def naive(student: Tensor, teacher: Tensor, smoothing: float = 0.0) -> float:
    added = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        label, denominator = max(range(len(theirs)), key=theirs.__getitem__), sum(math.exp(v) for v in ours)
        logs = [math.log(math.exp(v) / denominator) for v in ours]
        added -= (1 - smoothing) * logs[label] + smoothing * sum(logs) / len(logs)
    return added


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_the_cross_entropy_with_the_teacher_s_decision(smoothing: float):
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    found = total(student, teacher, label_smoothing=smoothing)
    assert found.sum.item() == pytest.approx(naive(student, teacher, smoothing), rel=1e-5)
    assert found.count.item() == 5


def test_by_hand():
    found = total(torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[-5.0, -4.0]]))
    assert found.sum.item() == pytest.approx(-math.log(0.75))


def test_only_the_teacher_s_decision_counts():
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    assert total(student, teacher).sum == total(student, 9 * teacher).sum
    assert total(student, teacher).sum != total(student, -teacher).sum


def test_a_mask_leaves_out_even_nan():
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    student[2] = torch.nan
    student.requires_grad_()
    mask = torch.tensor([True, True, False, True])
    found = total(student, teacher, {"mask": mask})
    assert found.count.item() == 3
    assert found.sum.item() == pytest.approx(naive(student[mask], teacher[mask]), rel=1e-5)
    found.sum.backward()
    assert student.grad[mask].isfinite().all()
    none = total(torch.randn(4, 3), teacher, {"mask": torch.zeros(4, dtype=torch.bool)})
    assert (none.sum.item(), none.count.item()) == (0.0, 0)


def test_maps_have_their_classes_elsewhere():
    loss = HardLabels()
    loss.class_axis = 1
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    found = loss({"distillation_token": student}, {"logits": teacher}, {})
    rows = [one.movedim(1, -1).flatten(0, 2) for one in (student, teacher)]
    assert found.sum.item() == pytest.approx(naive(*rows), rel=1e-5)


def test_the_count_is_known_from_the_batch():
    loss = HardLabels()
    assert loss.count({"labels": torch.tensor([0, -100])}).item() == 2
    assert loss.count({}) is None


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing=1.0 is not in \[0, 1\): it is a share of the target"):
        HardLabels(label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"the student's head has shape \(2, 3\), the teacher's logits \(2, 4\)"):
        total(torch.randn(2, 3), torch.randn(2, 4))
