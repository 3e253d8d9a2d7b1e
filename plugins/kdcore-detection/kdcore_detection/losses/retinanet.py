"""What RetinaNet is trained with."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from kdcore.losses.base import Loss, Total
from kdcore.losses.functional import upcast
from kdcore.signals import Batch, Signals
from torch.nn import functional as F

from kdcore_detection.assign import matched
from kdcore_detection.boxes import encode
from kdcore_detection.losses.focal import check_focal, focal, is_class, over_positions


class RetinaNetLoss(Loss):
    """``classification``: focal loss; ``box``: smooth L1 between deltas, the sum of the four.

    **Shape**: ``logits`` (N, A, C), ``deltas`` and ``anchors`` (N, A, 4), ``assigned`` (N, A); of the batch ``boxes``
    (N, M, 4) and ``box_labels`` (N, M).

    **Reduction**: ``count`` is the number of anchors with a box, for both; ``classification`` adds up those of
    background too, also where there is no box, and is then divided by 1.

    **Paper**: Lin et al., Focal Loss for Dense Object Detection, 2017 (arXiv 1708.02002), section 3 and 4; alpha and
    gamma are its defaults.
    **Deviation**: L1 by default, as in torchvision, which takes the mean of the images' means; here, as in the paper,
    the batch is divided by all its positives.

    Args:
        alpha: weight of objects; that of background is ``1 - alpha``.
        gamma: how much less what is easy counts.
        beta: where smooth L1 turns from a square into a line; 0 is L1.

    Raises:
        ValueError: ``alpha`` outside [0, 1], or ``gamma`` or ``beta`` below 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {"student.logits", "student.deltas", "student.anchors", "student.assigned"}
    )

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0, beta: float = 0.0) -> None:
        super().__init__()
        check_focal(alpha, gamma)
        if not beta >= 0:
            raise ValueError(f"beta={beta} is below 0: it is where the loss turns into a line")
        self.alpha, self.gamma, self.beta = alpha, gamma, beta

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        logits, assigned = student["logits"], student["assigned"]
        positive = assigned >= 0
        classes = focal(
            logits, is_class(assigned, batch["box_labels"], logits.shape[-1]), alpha=self.alpha, gamma=self.gamma
        )
        target = encode(matched(batch["boxes"], assigned), student["anchors"])
        boxes = F.smooth_l1_loss(upcast(student["deltas"]), target, beta=self.beta, reduction="none").sum(-1)
        count = positive.sum()
        return {
            "classification": Total(over_positions(classes, assigned), count),
            "box": Total(torch.where(positive, boxes, 0.0).sum(), count),
        }
