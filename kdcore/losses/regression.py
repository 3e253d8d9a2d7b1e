"""Distances between two signals, element by element: logits, features, frames or boxes."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, masked_count, masked_total
from kdcore.signals import Batch, Signals


class MSE(Loss):
    """``(s - t)^2``, mean over elements.

    **Shape**: any, the same for student and teacher; a mask or weight has that shape without the class axis.

    **Reduction**: ``count`` is the number of positions that the mask keeps, each with its mean over the class axis:
    all elements weigh the same, and the batch alone tells the count.

    Raises:
        ValueError: the two signals differ in shape; mask or weight do not fit them.

    **Paper**: Romero et al., FitNets, 2014 (arXiv 1412.6550), eq. 3, for features behind a projector; on logits
    Ba and Caruana, 2013 (arXiv 1312.6184), eq. 1. Both halve the sum; we take the mean over elements.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})

    def count(self, batch: Batch) -> Tensor | None:
        return masked_count(batch)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        s, t = _visible(student, teacher, batch, self.class_axis)
        return masked_total(functional.squared_error(s, t, axis=self.class_axis), batch)


class SmoothL1(Loss):
    """``(s - t)^2 / (2 beta)`` where ``|s - t| < beta``, else ``|s - t| - beta / 2``; mean over elements.

    **Shape**: any, the same for student and teacher; a mask or weight has that shape without the class axis.

    **Reduction**: ``count`` is the number of positions that the mask keeps, each with its mean over the class axis:
    all elements weigh the same, and the batch alone tells the count.

    Args:
        beta: where the square turns into a straight line, in the signal's units; 1 as in the paper, 0 for plain L1.

    Raises:
        ValueError: ``beta`` is negative; the two signals differ in shape; mask or weight do not fit them.

    **Paper**: Girshick, Fast R-CNN, 2015 (arXiv 1504.08083), eq. 3.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, *, beta: float = 1.0) -> None:
        super().__init__()
        if not beta >= 0.0:
            raise ValueError(f"beta={beta} is negative: it is the distance at which the square turns into a line")
        self.beta = beta

    def count(self, batch: Batch) -> Tensor | None:
        return masked_count(batch)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        s, t = _visible(student, teacher, batch, self.class_axis)
        return masked_total(functional.smooth_l1(s, t, beta=self.beta, axis=self.class_axis), batch)


def _visible(student: Signals, teacher: Signals, batch: Batch, axis: int) -> tuple[Tensor, Tensor]:
    s, t, mask = student["logits"], teacher["logits"], batch.get("mask")
    if s.ndim == 1 == t.ndim:  # one number per sample has no feature axis to average over
        s, t = s.unsqueeze(axis), t.unsqueeze(axis)
    return functional.hide(s, mask, axis), functional.hide(t, mask, axis)
