"""A loss that keeps every promise, to be broken in one place."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, masked_count, masked_total
from kdcore.signals import Batch, Signals


class Sound(Loss):
    """``scale * |s - t|^2 / C``, mean over positions.

    **Shape**: both ``logits`` (N, C), (N, T, C) or (N, C, H, W).

    **Reduction**: ``count`` is the number of positions that the mask keeps.

    Args:
        scale: a factor, without a unit; 1.

    Raises:
        ValueError: the two signals differ in shape.

    **Paper**: none; it is made for these tests.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def count(self, batch: Batch) -> Tensor | None:
        return masked_count(batch)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Any:
        return self.total(self.terms(*self.seen(student, teacher, batch)), batch)

    def seen(self, student: Signals, teacher: Signals, batch: Batch) -> tuple[Tensor, Tensor]:
        mask = batch.get("mask")
        ours, theirs = (functional.hide(one["logits"], mask, self.class_axis) for one in (student, teacher))
        return ours.float(), theirs.float()

    def terms(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """One for each position."""
        return self.scale * (ours - theirs).square().mean(self.class_axis)

    def total(self, terms: Tensor, batch: Batch) -> Any:
        return masked_total(terms, batch)


class Uncounted(Sound):
    """The same, where the batch alone does not tell the count."""

    def count(self, batch: Batch) -> Tensor | None:
        return None


class Named(Uncounted):
    """Two totals by name."""

    def total(self, terms: Tensor, batch: Batch) -> Any:
        return {"one": masked_total(terms, batch), "two": masked_total(2 * terms, batch)}


class Relational(Sound):
    """Says that it compares samples, so that it may."""

    relational: ClassVar[bool] = True

    def count(self, batch: Batch) -> Tensor | None:
        return None

    def total(self, terms: Tensor, batch: Batch) -> Any:
        total: Total = masked_total(terms, batch)
        return total
