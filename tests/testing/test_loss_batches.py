"""Losses whose value depends on what it must not depend on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.losses.base import Total, masked_total
from kdcore.testing import check_loss, samples
from kdcore.testing.loss_batches import class_axis_of

from . import refusal as r
from .sound import Named, Relational, Sound, Uncounted

VECTORS = samples.vectors()


def n(terms: Tensor) -> Tensor:
    return torch.full((), len(terms), dtype=torch.int64, device=terms.device)


def test_samples_that_are_weighed_by_their_place():
    class First(Relational):
        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            return super().terms(ours, theirs) * torch.arange(len(ours), device=ours.device)

    said = r.refusal(First, "order", **VECTORS)
    assert said.startswith("with the samples in another order its sum is ")
    assert said.endswith(": treat every sample alike, wherever in the batch it stands")


def test_a_gradient_that_stays_where_it_was():
    class Stuck(Relational):
        """The value is the same in any order; the gradient is that of the first sample alone."""

        def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
            first = torch.arange(len(ours), device=ours.device).unsqueeze(1) == 0
            return super().terms(torch.where(first, ours, ours.detach()), theirs)

    assert r.refusal(Stuck, "order", **VECTORS).startswith(
        "with the samples in another order its gradient at `student.logits` is off by "
    )


MEAN = (
    "instead of the sum, and batches that are not equally full would be averaged wrongly: return Total(terms.sum(), "
    "how many)"
)


def test_a_mean_with_the_right_count():
    class Mean(Uncounted):
        def total(self, terms: Tensor, batch: Any) -> Any:
            return Total(terms.mean(), n(terms))

    assert r.refusal(Mean, "additive", **VECTORS) == f"it returns the mean {MEAN}"


def test_a_mean_over_one():
    class Mean(Uncounted):
        def total(self, terms: Tensor, batch: Any) -> Any:
            return Total(terms.mean(), n(terms[:1]))

    assert r.refusal(Mean, "additive", **VECTORS) == f"it returns the mean {MEAN}"


def test_one_mean_of_several_totals():
    class Half(Named):
        def total(self, terms: Tensor, batch: Any) -> Any:
            return {"sum": masked_total(terms, batch), "mean": Total(terms.mean(), n(terms))}

    assert r.refusal(Half, "additive", **VECTORS) == f"it returns the mean of `mean` {MEAN}"


class Centred(Sound):
    """Takes the mean of the batch away first."""

    def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return super().terms(ours - ours.mean(0), theirs - theirs.mean(0))


def test_samples_that_are_compared():
    said = r.refusal(Centred, "additive", **VECTORS)
    assert said.startswith("the total of the batch is 19.5959 over 4, ")
    assert said.endswith(
        ", which do not add up to it. A loss that compares samples with each other says `relational: ClassVar[bool] = "
        "True` and returns Total(value * n, n)"
    )
    assert " over 4, and its parts have 0 over 1 and " in said


def test_samples_may_be_compared_by_a_loss_that_says_so():
    class Says(Centred):
        relational = True

    check_loss(Says, **VECTORS, skip=r.PLAIN)


class Leaves(Sound):
    """Leaves masked terms out of the sum, but computes them."""

    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        return student["logits"].float(), teacher["logits"].float()


@pytest.mark.parametrize("domain", [samples.maps, samples.tokens, samples.frames])
def test_nan_at_masked_positions_reaches_the_gradient(domain: Any):
    said = r.refusal(Leaves, "mask", **domain())
    assert said == (
        "with inf at positions that the mask leaves out its gradient at `student.logits` is not finite: hide them "
        "first of all, `functional.hide(signal, mask, self.class_axis)`; left out of the sum alone, they reach the "
        "gradient"
    )


class Mapped(Uncounted):
    """Maps the student's logits, and hides the masked ones afterwards only."""

    def setup(self, example: Any, facts: Any, models: Any) -> None:
        self.map = torch.nn.Linear(samples.CLASSES, samples.CLASSES)

    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        mapped = self.map(student["logits"].float())
        return super().seen({"logits": mapped}, teacher, batch)


def test_nan_at_masked_positions_reaches_what_the_loss_trains():
    said = r.refusal(Mapped, "mask", **samples.tokens())
    assert said.startswith(
        "with inf at positions that the mask leaves out its gradient at `loss.map.weight` is not finite: hide them "
    )


def test_masked_positions_that_count():
    class Ignores(Leaves):
        """Computes with rubbish, and adds it up."""

        def total(self, terms: Tensor, batch: Any) -> Any:
            return masked_total(terms.clamp(max=1e9), {})

        def count(self, batch: Any) -> None:
            return None

    said = r.refusal(Ignores, "mask", exactly=False, **samples.tokens())
    assert said.startswith("with 1e+30 at positions that the mask leaves out its sum is ")


def test_labels_at_masked_positions_do_not_matter_either():
    class Labels(Uncounted):
        def forward(self, student: Any, teacher: Any, batch: Any, **roles: Any) -> Any:
            bare = (batch["labels"] < 0).flatten(1).any(1)  # samples that are not labelled everywhere
            return masked_total(self.terms(*self.seen(student, teacher, batch)) * (1 + bare.unsqueeze(1)), batch)

    said = r.refusal(Labels, "mask", exactly=False, **samples.tokens())
    assert said.startswith("with 1e+30 at positions that the mask leaves out its sum is 109.436 instead of ")


def test_without_a_mask_there_is_nothing_to_hide():
    check_loss(Leaves, **r.plain(samples.tokens(), "labels"), skip=r.PLAIN)


class Averages(Uncounted):
    """One term a sample: the mean over all positions, as many as there may be."""

    def total(self, terms: Tensor, batch: Any) -> Any:
        kept = torch.where(batch["mask"], terms, 0.0).flatten(1) if "mask" in batch else terms.flatten(1)
        return Total(kept.mean(1).sum(), n(kept))


@pytest.mark.parametrize("domain", [samples.maps, samples.tokens])
def test_a_mean_over_a_shape(domain: Any):
    said = r.refusal(Averages, "padding", **domain())
    assert said.startswith("with 3 more positions that the mask leaves out its sum is ")
    assert said.endswith(": divide by how many are selected, never by a shape")


def test_signals_of_other_positions_are_not_padded():
    class Coarse(Averages):
        """Reads a tap of half the size, which the mask says nothing about."""

        needs = frozenset({"student.tap", "teacher.tap"})

        def forward(self, student: Any, teacher: Any, batch: Any, **roles: Any) -> Any:
            terms = self.terms(student["tap"].float(), teacher["tap"].float())
            return Total(terms.flatten(1).mean(1).sum(), n(terms))

    sample = samples.maps()
    given = {role: {"tap": sample[role]["logits"][..., ::2, ::2]} for role in ("student", "teacher")}  # type: ignore[literal-required]
    check_loss(Coarse, **{**sample, **given}, skip={**r.PLAIN, "literal": "the class is in a function"})


@pytest.mark.parametrize(
    ("shape", "mask", "class_axis", "found"),
    [
        ((2, 3, 5), (2, 3), -1, 2),
        ((2, 5, 3, 4), (2, 3, 4), 1, 1),
        ((2, 5, 3, 4), (2, 3, 4), -1, 1),
        ((2, 3, 4, 5), (2, 3, 4), 1, 3),
        ((2, 3), (2, 3), -1, 2),
        ((2, 7, 5), (2, 3), -1, None),
        ((2, 5, 6, 8), (2, 3, 4), 1, None),
        ((9, 5), (2, 3), -1, None),
        ((2, 2, 2), (2, 2), 1, 1),
        ((2, 2, 2), (2, 2), -1, 2),
    ],
)
def test_where_the_classes_are(shape: Any, mask: Any, class_axis: int, found: int | None):
    assert class_axis_of(torch.zeros(shape), torch.zeros(mask), class_axis) == found
