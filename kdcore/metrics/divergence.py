"""How far the student's distribution is from the teacher's."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from kdcore.losses import functional


class Divergence(Metric):
    """KL(teacher || student) at temperature 1, mean over positions.

    In nats, 0 and above, less is better; 0 when the student says exactly what the teacher says.
    NaN before anything was seen.

    Args:
        class_axis: where the classes are in the logits; filled in from the task.
    """

    takes: ClassVar[str] = "student_teacher"
    higher_is_better = False
    is_differentiable = True
    full_state_update = False

    nats: Tensor
    total: Tensor

    def __init__(self, *, class_axis: int = -1) -> None:
        super().__init__()
        self.class_axis = class_axis
        self.add_state("nats", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Add a batch of logits, (N, C), (N, T, C) or (N, C, H, W) each.

        Raises:
            ValueError: the two differ in shape.
        """
        terms = functional.kl(student, teacher, axis=self.class_axis)
        self.nats = self.nats + terms.sum()
        self.total = self.total + terms.numel()

    def compute(self) -> Tensor:
        return self.nats / self.total
