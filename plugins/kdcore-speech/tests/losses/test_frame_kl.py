from __future__ import annotations

import math
import re

import pytest
import torch
from kdcore.losses.base import Total
from torch import Tensor

from kdcore_speech.losses.frame_kl import FrameKL
from recognised import BLANK, LABELS, heard, said


def full(logits: Tensor) -> dict[str, Tensor]:
    return {"logits": logits, "frames": torch.full((len(logits),), logits.shape[1])}


def total(student: dict[str, Tensor], teacher: dict[str, Tensor], **options: float) -> Total:
    found = FrameKL(blank=BLANK, **options)(student, teacher, {})  # type: ignore[arg-type]
    assert isinstance(found, Total)
    return found


def naive(
    student: dict[str, Tensor], teacher: dict[str, Tensor], around: int | None, temperature: float
) -> tuple[float, int]:
    """Frame by frame, label by label, in Python."""
    value, count = 0.0, 0
    for clip in range(3):
        end = int(min(student["frames"][clip], teacher["frames"][clip]))
        rows = [
            [[math.exp(float(x) / temperature) for x in signals["logits"][clip, t]] for t in range(end)]
            for signals in (teacher, student)
        ]
        p, q = ([[x / sum(row) for x in row] for row in side] for side in rows)
        spikes = [t for t in range(end) if max(range(LABELS), key=lambda label: p[t][label]) != BLANK]
        for t in range(end):
            if around is not None and not any(abs(t - spike) <= around for spike in spikes):
                continue
            count += 1
            value += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p[t], q[t], strict=True))
    return value, count


@pytest.mark.parametrize("around", [None, 0, 1, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_by_a_slow_formula(around: int | None, temperature: float) -> None:
    student, teacher = said(12, 0), said(12, 1)
    teacher["logits"][..., BLANK] += 3.0
    found = FrameKL(blank=BLANK, around=around, temperature=temperature)(student, teacher, {})
    value, count = naive(student, teacher, around, temperature)
    assert 0 < count < 36
    assert int(found.count) == count  # type: ignore[union-attr]
    assert found.sum.item() == pytest.approx(value, rel=1e-5)  # type: ignore[union-attr, arg-type]


def test_by_hand() -> None:
    # p = (1/2, 1/4, ...) against uniform over five: two frames of equal divergence, one of them blank
    p = torch.tensor([0.5, 0.125, 0.125, 0.125, 0.125])
    teacher = torch.stack([p, p.roll(BLANK)]).log().unsqueeze(0)
    each = 0.5 * math.log(0.5 * 5) + 4 * 0.125 * math.log(0.125 * 5)
    both, label = (total(full(torch.zeros(1, 2, LABELS)), full(teacher), **options) for options in ({}, {"around": 0}))
    assert (int(both.count), int(label.count)) == (2, 1)
    assert both.sum.item() == pytest.approx(2 * each)
    assert label.sum.item() == pytest.approx(each)


def test_which_frames_are_around_a_label() -> None:
    teacher = heard(BLANK, BLANK, BLANK, 1, BLANK, BLANK, BLANK, BLANK, BLANK, 4)
    for around, count in ((0, 2), (1, 5), (2, 8), (4, 10), (9, 10)):
        assert int(total(full(torch.zeros(1, 10, LABELS)), full(teacher), around=around).count) == count


def test_frames_around_the_last_label_end_with_the_clip() -> None:
    student = {"logits": torch.zeros(1, 10, LABELS), "frames": torch.tensor([5])}
    teacher = {"logits": heard(*[BLANK] * 4, 1, *[3] * 5), "frames": torch.tensor([5])}
    assert int(total(student, teacher, around=2).count) == 3


def test_a_teacher_that_is_silent_teaches_nothing() -> None:
    logits = torch.randn(2, 4, LABELS, requires_grad=True)
    found = total(full(logits), full(heard(*[BLANK] * 4).expand(2, -1, -1)), around=1)
    (gradient,) = torch.autograd.grad(found.sum, logits)
    assert (found.sum.item(), int(found.count)) == (0.0, 0)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_gradients_reach_the_students_frames_only() -> None:
    student, teacher = said(8, 0), said(8, 1)
    student["logits"].requires_grad_()
    teacher["logits"].requires_grad_()
    ours, _ = torch.autograd.grad(total(student, teacher).sum, (student["logits"], teacher["logits"]))
    counts = torch.arange(8) < student["frames"].unsqueeze(1)
    assert ours[counts].abs().sum(-1).min() > 0
    assert torch.equal(ours[~counts], torch.zeros_like(ours[~counts]))


def test_the_gradient_is_that_of_the_value() -> None:
    student = torch.randn(2, 3, LABELS, dtype=torch.float64, requires_grad=True)
    teacher = full(torch.randn(2, 6, LABELS, dtype=torch.float64))
    # the sum is float32: steps must be large against its digits
    assert torch.autograd.gradcheck(
        lambda x: total(full(x), teacher, temperature=2.0).sum, student, eps=1e-2, atol=1e-2, rtol=1e-2
    )


def test_a_faster_teacher_teaches_each_of_its_labels() -> None:
    teacher = heard(BLANK, 0, BLANK, BLANK, 3, BLANK)
    student = heard(0, BLANK, 3)
    found = total(full(student), full(teacher), around=0)
    assert int(found.count) == 2
    assert found.sum.item() == pytest.approx(0.0, abs=1e-6)


def test_a_temperature_may_be_a_schedule() -> None:
    loss = FrameKL(blank=BLANK, temperature=lambda progress: 1.0 + progress)
    student, teacher = said(6, 0), said(6, 1)
    found = loss(student, teacher, {})
    assert found.sum.item() == pytest.approx(total(student, teacher).sum.item())  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"around": -1}, "around=-1: give 0 or more frames, or leave it out to count all frames"),
        ({"temperature": 0.0}, "temperature=0.0 is not above 0: logits are divided by it"),
    ],
)
def test_what_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        FrameKL(blank=BLANK, **options)  # type: ignore[arg-type]
