"""What the distillers of dense detectors share: equal positions, known images, and how many of a teacher's objects."""

from __future__ import annotations

import torch
from kdcore.losses.functional import upcast
from kdcore.signals import Batch
from torch import Tensor

SEEN = 0.05
"""A teacher sees an object where it gives a class more than this: below, detections are dropped by default."""


def check_positions(student: Tensor, teacher: Tensor, signal: str) -> None:
    """Refuse dense outputs (N, A, ...) that cannot be compared position by position.

    Raises:
        ValueError: the two shapes differ.
    """
    if student.shape == teacher.shape:
        return
    both = f"the student's `{signal}` have shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}"
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"{both}: this loss compares position by position, and these nets have other strides or anchors. Build "
            "both with the same levels of the pyramid and the same anchors, or distil features, which can be resized"
        )
    raise ValueError(f"{both}: build both nets with the same classes and the same outputs at a position")


def boxes_known(batch: Batch) -> Tensor:
    """Bool (N,): which images may be compared with their boxes. One that is known to have none is among them.

    The batch says it in ``boxes_known``; without that, all are.
    """
    labels: Tensor = batch["box_labels"]
    known: Tensor | None = batch.get("boxes_known")
    return torch.ones(len(labels), dtype=torch.bool, device=labels.device) if known is None else known


def seen(logits: Tensor) -> Tensor:
    """How many positions a teacher's logits (N, A, C) see an object at: what losses over all positions are divided by.

    Detectors' own losses are divided by the number of assigned positions, of which a batch without known boxes has
    none; this is of the same size, and the teacher tells it of every image. An image in which it sees nothing counts
    one: its positions have terms all the same, and a count of 0 would say that there are none.
    """
    return (upcast(logits).sigmoid().amax(-1) > SEEN).sum(1).clamp(min=1).sum()
