from __future__ import annotations

import math

import pytest
import torch
from kdcore.losses.base import Total
from torch import Tensor

from kdcore_speech.losses.guided_ctc import GuidedCTC
from recognised import BLANK, LABELS, heard, said


def total(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Total:
    found = GuidedCTC(blank=BLANK)(student, teacher, {})
    assert isinstance(found, Total)
    return found


def full(logits: Tensor) -> dict[str, Tensor]:
    return {"logits": logits, "frames": torch.full((len(logits),), logits.shape[1])}


def test_by_a_slow_formula() -> None:
    student, teacher = said(10, 0), said(10, 1)
    value = 0.0
    for clip in range(3):
        for t in range(int(student["frames"][clip])):
            label = max(range(LABELS), key=lambda one: float(teacher["logits"][clip, t, one]))
            if label != BLANK:
                weights = [math.exp(float(x)) for x in student["logits"][clip, t]]
                value -= weights[label] / sum(weights)
    found = total(student, teacher)
    assert value < -1
    assert found.sum.item() == pytest.approx(value, rel=1e-5)
    assert int(found.count) == 3


def test_by_hand() -> None:
    # two labels among blanks: a uniform student gives each 1/5
    found = total(full(torch.zeros(1, 4, LABELS)), full(heard(BLANK, 1, BLANK, 0)))
    assert found.sum.item() == pytest.approx(-2 / 5)


def test_one_that_speaks_earlier_is_drawn_to_the_teachers_moment() -> None:
    student = heard(0, BLANK, BLANK).requires_grad_()
    (gradient,) = torch.autograd.grad(total(full(student), full(heard(BLANK, 0, BLANK))).sum, student)
    assert gradient[0, 1, 0] < 0 < gradient[0, 1, BLANK]
    assert torch.equal(gradient[0, [0, 2]], torch.zeros(2, LABELS))


def test_a_silent_teacher_counts_and_adds_nothing() -> None:
    student = torch.randn(2, 3, LABELS, requires_grad=True)
    found = total(full(student), full(heard(BLANK, BLANK, BLANK).expand(2, -1, -1)))
    (gradient,) = torch.autograd.grad(found.sum, student)
    assert (found.sum.item(), int(found.count)) == (0.0, 2)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_faster_teacher_guides_by_each_of_its_labels() -> None:
    found = total(full(torch.zeros(1, 2, LABELS)), full(heard(BLANK, 1, BLANK, BLANK, BLANK, 4)))
    assert found.sum.item() == pytest.approx(-2 / 5)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = said(6, 0), said(6, 1)
    student["logits"].requires_grad_()
    teacher["logits"].requires_grad_()
    _, theirs = torch.autograd.grad(
        total(student, teacher).sum, (student["logits"], teacher["logits"]), allow_unused=True
    )
    assert theirs is None
