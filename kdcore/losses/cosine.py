"""The angle between two signals, whatever their lengths."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, masked_count, masked_total
from kdcore.signals import Batch, Signals


class Cosine(Loss):
    """``1 - cos(s, t)`` between feature vectors, mean over positions.

    **Shape**: any, the same for student and teacher, features at ``axis``; a mask or weight lacks that axis.

    **Reduction**: ``count`` is the number of positions that the mask keeps.

    Args:
        axis: where the features are. By default the task's class axis; a map of four or more axes in a task whose
            classes are last is ambiguous, and must say 1 for (N, C, H, W) or -1 for (N, H, W, C).

    Raises:
        ValueError: ``axis`` is needed; the two signals differ in shape; mask or weight do not fit them.

    **Paper**: none; the angle is older than all of them.
    **Deviation**: a vector shorter than 1e-8 has no direction; its term is 1 and its gradient 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, *, axis: int | None = None) -> None:
        super().__init__()
        self.axis = axis

    def count(self, batch: Batch) -> Tensor | None:
        return masked_count(batch)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        s, t, mask = student["logits"], teacher["logits"], batch.get("mask")
        axis = self._feature_axis(s)
        terms = functional.cosine_distance(functional.hide(s, mask, axis), functional.hide(t, mask, axis), axis=axis)
        return masked_total(terms, batch)

    def _feature_axis(self, signal: Tensor) -> int:
        if self.axis is not None:
            return self.axis
        if signal.ndim >= 4 and self.class_axis != 1:
            raise ValueError(
                f"cosine needs to know where the features of a signal of shape {tuple(signal.shape)} are: "
                "say `axis: 1` for (N, C, H, W), `axis: -1` for (N, H, W, C)"
            )
        return self.class_axis
