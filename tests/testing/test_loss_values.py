"""Losses whose numbers are wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdcore.losses.base import Total
from kdcore.losses.kl import KL
from kdcore.testing import check_loss, samples

from . import refusal as r
from .sound import Named, Sound, Uncounted

VECTORS = samples.vectors()
UPCAST = "upcast what it reads, `x.float()`, before anything else"


class Native(Sound):
    """Computes in whatever precision it is given."""

    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        return student["logits"], teacher["logits"]


def test_half_precision_that_is_upcast_too_late():
    assert r.refusal(Native, "precision", **VECTORS) == (
        f"with signals in bfloat16 its sum is 23.375 instead of 23.3334, as the same numbers give in float32: {UPCAST}"
    )


def test_a_sum_in_half_precision():
    class Never(Native):
        def total(self, terms: Tensor, batch: Any) -> Any:
            return Total(terms.sum(), torch.full((), len(terms), dtype=torch.int64, device=terms.device))

    assert r.refusal(Never, "precision", **VECTORS) == f"with signals in bfloat16 the sum is bfloat16: {UPCAST}"


def test_signals_of_different_precision():
    class Products(Sound):
        """``|s|^2 - 2 st + |t|^2``, in float32 where both are in half precision."""

        def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
            ours, theirs = student["logits"], teacher["logits"]
            return (ours.float(), theirs.float()) if ours.dtype == theirs.dtype else (ours, theirs)

        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            cross = torch.bmm(ours.unsqueeze(1), theirs.unsqueeze(2)).flatten()
            return ours.square().sum(1) - 2 * cross + theirs.square().sum(1)

    said = r.refusal(Products, "autocast", **VECTORS)
    assert said.startswith("it raises RuntimeError: ")
    assert said.endswith(f"promised is that student and teacher may be of different precision: {UPCAST}")


def test_a_student_in_half_precision_that_is_not_upcast():
    class Rounds(Sound):
        """The teacher is rounded to the student's precision."""

        def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
            ours = student["logits"]
            return ours.float(), teacher["logits"].to(ours.dtype).float()

    assert r.refusal(Rounds, "autocast", **VECTORS) == (
        "with a student in bfloat16 and a teacher in float32 its sum is 23.3334 instead of 23.3387, as the same "
        f"numbers give in float32: {UPCAST}"
    )


def test_a_sign_that_is_wrong():
    class Flees(Sound):
        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            return -super().terms(ours, theirs)

    assert r.refusal(Flees, "minimal", **VECTORS) == (
        "it is 0 where the student equals the teacher and less, -5.83507, where the student is as given: it would "
        "drive them apart. Is the sign right, is each in its place?"
    )


def test_a_minimum_beside_the_teacher():
    class Beside(Sound):
        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            return super().terms(ours, 1.2 * theirs)

    said = r.refusal(Beside, "minimal", **VECTORS)
    assert said.startswith("it is 0.129712 where the student equals the teacher and less, 0.129187, ")
    assert "where the student is 0.01 away: it would drive them apart" in said


def test_parts_that_are_still_to_be_trained_are_no_fault():
    class Maps(Sound):
        def setup(self, example: Any, facts: Any, models: Any) -> None:
            self.map = torch.nn.Linear(5, 5)

        def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
            ours, theirs = super().seen(student, teacher, batch)
            return self.map(ours), theirs

    check_loss(Maps, **VECTORS, skip=r.PLAIN)


# ---- references


def naive(student: Any, teacher: Any, batch: Any) -> float:
    rows = zip(student["logits"].tolist(), teacher["logits"].tolist(), strict=True)
    return sum((a - b) ** 2 for ours, theirs in rows for a, b in zip(ours, theirs, strict=True)) / 20


def graphed(student: Any, teacher: Any, batch: Any) -> Tensor:
    return functional.mse_loss(student["logits"], teacher["logits"])


VALUE = naive(VECTORS["student"], VECTORS["teacher"], {})


@pytest.mark.parametrize("reference", [VALUE, naive, graphed, {"": VALUE}])
def test_a_reference_that_it_meets(reference: Any):
    check_loss(Sound, **VECTORS, reference=reference, skip=r.PLAIN)


def test_a_reference_by_name():
    check_loss(Named, **VECTORS, reference={"one": VALUE, "two": 2 * VALUE}, skip=r.PLAIN)
    given = {**VECTORS, "reference": lambda *_: {"one": VALUE, "two": 2 * VALUE}}
    check_loss(Named, **given, skip=r.PLAIN)


@pytest.mark.parametrize("reference", [VALUE, naive, graphed])
def test_a_factor_is_found(reference: Any):
    assert r.refusal(lambda: Sound(scale=4.0), "reference", reference=reference, **VECTORS) == (
        "the mean is 23.34029, and that of the reference 5.835072, which is 4 times as much: look for a factor of N, "
        "of C or of T squared"
    )


def test_one_of_several_totals_that_differs():
    assert r.refusal(Named, "reference", reference={"one": VALUE, "two": 0.0}, **VECTORS) == (
        "the mean of `two` is 11.67014, and that of the reference 0: look for a factor of N, of C or of T squared"
    )


def test_a_reference_of_other_totals():
    assert r.refusal(Named, "reference", reference=VALUE, **VECTORS) == (
        "the reference has the totals one without a name, and the loss `one`, `two`: give a number for each by its "
        "name, or one number where there is one total"
    )


def test_a_gradient_that_is_not_that_of_the_value():
    class Detached(Sound):
        """The value is right; half of its gradient is lost."""

        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            return super().terms(0.5 * ours + 0.5 * ours.detach(), theirs)

    said = r.refusal(Detached, "reference", reference=graphed, **VECTORS)
    assert said == (
        "the mean is that of the reference, but its gradient at `student.logits` is off by 0.54, where 1.08 is its "
        "length"
    )


def test_a_reference_that_raises():
    said = r.refusal(Sound, "reference", reference=lambda student: 0.0, **VECTORS)
    assert said.endswith(
        "promised is that it gives what the reference gives: let the reference take what `forward` takes, and return a "
        "number for each total"
    )


def test_a_reference_of_masked_positions():
    tokens = samples.tokens()
    mask = tokens["batch"]["mask"]

    def slow(student: Any, teacher: Any, batch: Any) -> Tensor:
        p, q = (one["logits"][mask].double().softmax(-1) for one in (teacher, student))
        return (p * (p / q).log()).sum(-1).mean()

    check_loss(KL, **tokens, reference=slow, skip=r.PLAIN)
    assert "look for a factor" in r.refusal(lambda: KL(temperature=2.0), "reference", reference=slow, **tokens)


def test_an_uncounted_loss_is_no_worse():
    check_loss(Uncounted, **VECTORS, reference=naive, skip=r.PLAIN)
