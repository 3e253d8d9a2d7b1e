"""How often the student answers as the teacher does."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric


class Agreement(Metric):
    """The share of positions where student and teacher have the same largest logit.

    In [0, 1], more is better: fidelity to the teacher, right or wrong. NaN before anything was seen.

    Args:
        class_axis: where the classes are in the logits; filled in from the task.

    **Paper**: Stanton et al., Does Knowledge Distillation Really Work?, 2021 (arXiv 2106.05945), top-1 agreement.
    """

    takes: ClassVar[str] = "student_teacher"
    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    equal: Tensor
    total: Tensor

    def __init__(self, *, class_axis: int = -1) -> None:
        super().__init__()
        self.class_axis = class_axis
        self.add_state("equal", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Add a batch of logits, (N, C), (N, T, C) or (N, C, H, W) each.

        Raises:
            ValueError: the two differ in shape.
        """
        if student.shape != teacher.shape:
            raise ValueError(
                f"the student's logits have shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}: "
                "agreement compares the same positions over the same classes"
            )
        same = student.argmax(self.class_axis) == teacher.argmax(self.class_axis)
        self.equal = self.equal + same.sum()
        self.total = self.total + same.numel()

    def compute(self) -> Tensor:
        return self.equal / self.total
