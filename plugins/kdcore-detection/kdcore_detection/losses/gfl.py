"""What GFL is trained with."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from kdcore.losses.base import Loss, Total
from kdcore.losses.functional import upcast
from kdcore.signals import Batch, Signals
from torch import Tensor

from kdcore_detection.assign import matched
from kdcore_detection.boxes import centre, giou, iou
from kdcore_detection.losses.focal import is_class, over_positions, quality_focal

INSIDE = 0.01
"""A distance is at least so much less than the last bin, which then is never a lower neighbour."""


class GFLLoss(Loss):
    """``quality``: quality focal loss; ``box``: ``2 (1 - GIoU)``; ``distribution``: 1/4 of the distribution focal loss.

    The target of a position's class is the intersection over union of its box with the one it is to find, that of all
    other classes 0. With y a side's distance in strides and S the softmax of its distribution, the distribution focal
    loss is ``-((i + 1 - y) log S_i + (y - i) log S_(i + 1))``, i = floor(y), the mean of the four sides. ``box`` and
    ``distribution`` are weighted by the highest score of the position.

    **Shape**: ``logits`` (N, A, C), ``boxes`` and ``anchors`` (N, A, 4), ``distribution`` (N, A, 4, bins), ``assigned``
    (N, A); of the batch ``boxes`` (N, M, 4) and ``box_labels`` (N, M).

    **Reduction**: ``count`` is the number of positions with a box, for all three; ``quality`` adds up those of
    background too, also where there is no box, and is then divided by 1.

    **Paper**: Li et al., Generalized Focal Loss, 2020 (arXiv 2006.04388), section 3; the defaults are its own.
    **Deviation**: a distance beyond the last bin is taken for one just inside of it. The authors' code divides
    ``box`` and ``distribution`` by the sum of the weights; as the paper writes it, they fade where scores are low.

    Args:
        beta: how much less what is nearly right counts.
        box_weight: of ``box``.
        distribution_weight: of ``distribution``.

    Raises:
        ValueError: ``beta`` below 1, where the slope would be infinite at the right answer; a weight below 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {"student.logits", "student.boxes", "student.distribution", "student.anchors", "student.assigned"}
    )

    def __init__(self, *, beta: float = 2.0, box_weight: float = 2.0, distribution_weight: float = 0.25) -> None:
        super().__init__()
        if not beta >= 1:
            raise ValueError(f"beta={beta} is below 1: the slope would be infinite where the score is right")
        if not box_weight >= 0 or not distribution_weight >= 0:
            raise ValueError(f"box_weight={box_weight} and distribution_weight={distribution_weight}: none is below 0")
        self.beta, self.box_weight, self.distribution_weight = beta, box_weight, distribution_weight

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        logits, assigned = student["logits"], student["assigned"]
        positive, target = assigned >= 0, matched(batch["boxes"], assigned)
        # where there is no box, the prediction is put on its target: nothing infinite lies behind the mask
        boxes = torch.where(positive.unsqueeze(-1), student["boxes"], target)
        overlap = iou(boxes.detach(), target).unsqueeze(-1)
        wanted = torch.where(is_class(assigned, batch["box_labels"], logits.shape[-1]), overlap, 0.0)
        score = torch.where(positive, upcast(logits.detach()).sigmoid().amax(-1), 0.0)
        sides = _distances(student["anchors"], target, student["distribution"].shape[-1])
        distribution = distribution_focal(student["distribution"], sides).mean(-1)
        count = positive.sum()
        return {
            "quality": Total(over_positions(quality_focal(logits, wanted, beta=self.beta), assigned), count),
            "box": Total(self.box_weight * (score * (1.0 - giou(boxes, target))).sum(), count),
            "distribution": Total(self.distribution_weight * (score * distribution).sum(), count),
        }


def distribution_focal(distribution: Tensor, distance: Tensor) -> Tensor:
    """Cross-entropy with the two bins beside a distance, the nearer one counting more: (..., bins), (...) -> (...).

    Args:
        distance: from 0 to less than ``bins - 1``.
    """
    log_s = torch.log_softmax(upcast(distribution), -1)
    lower = distance.floor()
    at = lower.long().unsqueeze(-1)
    near, far = log_s.gather(-1, at).squeeze(-1), log_s.gather(-1, at + 1).squeeze(-1)
    return -((lower + 1 - distance) * near + (distance - lower) * far)


def _distances(anchors: Tensor, boxes: Tensor, bins: int) -> Tensor:
    """From points to the left, top, right and bottom of boxes, in strides: (N, A, 4), within the bins."""
    (x, y), (x1, y1, x2, y2) = centre(anchors), boxes.unbind(-1)
    stride = anchors[..., 2:3] - anchors[..., 0:1]
    return (torch.stack([x - x1, y - y1, x2 - x, y2 - y], -1) / stride).clamp(0.0, bins - 1 - INSIDE)
