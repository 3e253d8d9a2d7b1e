"""What FCOS is trained with."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from kdcore.losses.base import Loss, Total
from kdcore.losses.functional import upcast
from kdcore.signals import Batch, Signals
from torch import Tensor
from torch.nn import functional as F

from kdcore_detection.assign import matched
from kdcore_detection.boxes import centre, giou
from kdcore_detection.losses.focal import check_focal, focal, is_class, over_positions


class FCOSLoss(Loss):
    """``classification``: focal loss; ``box``: 1 - GIoU; ``quality``: cross-entropy of the centre-ness.

    The centre-ness of a point is ``sqrt(min(l, r) / max(l, r) min(t, b) / max(t, b))``, l, t, r and b its distances to
    the left, top, right and bottom of its box.

    **Shape**: ``logits`` (N, A, C), ``boxes`` and ``anchors`` (N, A, 4), ``quality`` and ``assigned`` (N, A); of the
    batch ``boxes`` (N, M, 4) and ``box_labels`` (N, M).

    **Reduction**: ``count`` is the number of positions with a box, for all three; ``classification`` adds up those of
    background too, also where there is no box, and is then divided by 1.

    **Paper**: Tian et al., FCOS, 2019 (arXiv 1904.01355), section 3, eq. 2 and 3; the focal loss is Lin et al., 2017
    (arXiv 1708.02002), whose alpha and gamma are the defaults.
    **Deviation**: GIoU in place of IoU, as in the extension (arXiv 2006.09214); boxes are not weighted by centre-ness,
    as in torchvision.

    Args:
        alpha: weight of objects; that of background is ``1 - alpha``.
        gamma: how much less what is easy counts.

    Raises:
        ValueError: ``alpha`` outside [0, 1], or ``gamma`` below 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {"student.logits", "student.boxes", "student.quality", "student.anchors", "student.assigned"}
    )

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        check_focal(alpha, gamma)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        logits, assigned = student["logits"], student["assigned"]
        positive, target = assigned >= 0, matched(batch["boxes"], assigned)
        classes = focal(
            logits, is_class(assigned, batch["box_labels"], logits.shape[-1]), alpha=self.alpha, gamma=self.gamma
        )
        # where there is no box, the prediction is put on its target: nothing infinite lies behind the mask
        boxes = 1.0 - giou(torch.where(positive.unsqueeze(-1), student["boxes"], target), target)
        centreness = _centreness(student["anchors"], target, positive)
        quality = F.binary_cross_entropy_with_logits(upcast(student["quality"]), centreness, reduction="none")
        count = positive.sum()
        return {
            "classification": Total(over_positions(classes, assigned), count),
            "box": Total(torch.where(positive, boxes, 0.0).sum(), count),
            "quality": Total(torch.where(positive, quality, 0.0).sum(), count),
        }


def _centreness(anchors: Tensor, boxes: Tensor, positive: Tensor) -> Tensor:
    """(N, A), in [0, 1]; 1 where there is no box."""
    (x, y), (x1, y1, x2, y2) = centre(anchors), boxes.unbind(-1)
    across = torch.minimum(x - x1, x2 - x) / torch.maximum(x - x1, x2 - x)
    down = torch.minimum(y - y1, y2 - y) / torch.maximum(y - y1, y2 - y)
    return torch.where(positive, across * down, 1.0).sqrt()
