"""Knowledge distillation as Hinton et al. defined it."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, check_temperature, masked_count, masked_total
from kdcore.schedules import Scheduled
from kdcore.signals import Batch, Signals


class KL(Loss):
    """``T^2 KL(softmax(teacher.logits / T) || softmax(student.logits / T))``, mean over positions.

    The factor T^2 keeps the gradient's size when T changes, so that the weight beside cross-entropy can stay.

    **Shape**: both ``logits`` (N, C), (N, T, C) or (N, C, H, W), classes at the task's ``class_axis``.

    **Reduction**: ``count`` is the number of positions that the mask keeps, labelled or not; classes are summed.

    Args:
        temperature: T, a number above 0 or a schedule. 1 by default, the plain divergence; what suits a pair of
            nets is found by trying (the paper used 1 to 20, most later work 4).

    Raises:
        ValueError: ``temperature`` is not above 0; the two signals differ in shape; mask or weight do not fit them.

    **Paper**: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015 (arXiv 1503.02531), section 2.
    The paper's soft-target cross-entropy differs by the teacher's entropy, which has no gradient at the student.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, *, temperature: Scheduled = 1.0) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature

    def count(self, batch: Batch) -> Tensor | None:
        return masked_count(batch)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        temperature, mask = self.now(self.temperature), batch.get("mask")
        terms = functional.kl(
            functional.hide(student["logits"], mask, self.class_axis),
            functional.hide(teacher["logits"], mask, self.class_axis),
            temperature=temperature,
            axis=self.class_axis,
        )
        return masked_total(terms * temperature**2, batch)
