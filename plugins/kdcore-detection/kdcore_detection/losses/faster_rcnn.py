"""What Faster R-CNN is trained with: the terms of its proposals, and those of what is said about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from kdcore.losses.base import Total
from kdcore.losses.functional import upcast
from kdcore.signals import Batch, Signals
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore_detection.assign import BACKGROUND, IGNORED, UNMATCHED, matched, settle
from kdcore_detection.boxes import encode, iou, is_object
from kdcore_detection.losses.borrowing import Borrowing
from kdcore_detection.models.faster_rcnn import WEIGHTS, FasterRCNN, is_region

BETA = 1 / 9
"""Where smooth L1 turns from a square into a line, as in torchvision (the paper's public code)."""
OBJECT = 0.5
"""From this intersection over union on a proposal is an object's (arXiv 1504.08083, section 2.3)."""
PYRAMID = ("pyramid.0", "pyramid.1", "pyramid.2", "pyramid.3")


class FasterRCNNLoss(Borrowing[FasterRCNN]):
    """``rpn_class`` + ``rpn_box`` over sampled anchors, ``class`` + ``box`` over sampled proposals.

    Cross-entropy (binary for anchors), and smooth L1 between deltas, the sum of the four, at positives only. The true
    boxes are added to the proposals: the student's second half is run on them as well. Of each image at most
    ``anchors`` and ``regions`` are sampled, positives and background at random, positives up to a share; background
    fills up. The random numbers come from torch's own generator on the device, whose state a checkpoint holds.

    **Shape**: student ``objectness`` (N, A), ``rpn_deltas`` and ``anchors`` (N, A, 4), ``assigned`` (N, A),
    ``proposals`` (N, P, 4), ``logits`` (N, P, C + 1), ``deltas`` (N, P, C, 4), ``pyramid.0`` to ``pyramid.3``; of the
    batch ``boxes`` (N, M, 4), ``box_labels`` (N, M), and if there are any ``box_ignore`` and ``boxes_known``.

    **Reduction**: ``count`` is the number of sampled anchors for ``rpn_class`` and ``rpn_box``, of sampled proposals
    for ``class`` and ``box``, with and without an object, over the whole batch.

    Args:
        anchors: how many anchors of an image are sampled; 256, as in section 3.1.3 of the paper.
        positive_anchors: the share of those that have an object, at most; 1 : 1, as there.
        regions: how many proposals of an image are sampled; 512, torchvision's.
        positive_regions: the share of those that have an object, at most; 25 % (arXiv 1504.08083, section 2.3).

    Raises:
        ValueError: fewer than one sample, a share outside [0, 1], or a student that is no Faster R-CNN.

    **Paper**: Ren et al., Faster R-CNN, 2015 (arXiv 1506.01497), eq. 1 and 2; Girshick, Fast R-CNN, 2015
    (arXiv 1504.08083), eq. 1 to 3.
    **Deviation**: as in torchvision, box terms are divided by all samples and not weighed by 10; smooth L1 is a line
    from 1/9 on; both halves are trained at once.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {
            "student.objectness",
            "student.rpn_deltas",
            "student.anchors",
            "student.assigned",
            "student.proposals",
            "student.logits",
            "student.deltas",
            "student.pyramid.0",
            "student.pyramid.1",
            "student.pyramid.2",
            "student.pyramid.3",
        }
    )

    def __init__(
        self,
        *,
        anchors: int = 256,
        positive_anchors: float = 0.5,
        regions: int = 512,
        positive_regions: float = 0.25,
    ) -> None:
        super().__init__()
        for name, number, share in (
            ("anchors", anchors, positive_anchors),
            ("regions", regions, positive_regions),
        ):
            if number < 1 or not 0 <= share <= 1:
                raise ValueError(
                    f"{name}={number} and positive_{name}={share}: sample at least 1, and give a share in [0, 1]"
                )
        self.anchors, self.positive_anchors = anchors, positive_anchors
        self.regions, self.positive_regions = regions, positive_regions

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, Any], models: Callable[[str], nn.Module]
    ) -> None:
        self._borrowed = (two_stage(models("student"), "student"),)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        (net,) = self.borrowed()
        return self.terms(net, student, student["assigned"], batch)

    def terms(self, net: FasterRCNN, student: Signals, assigned: Tensor, batch: Batch) -> dict[str, Total]:
        """The four totals.

        Args:
            net: whose signals these are.
            student: its signals.
            assigned: int64 (N, A), what each anchor is to find.
            batch: the boxes that are true.
        """
        return {**self._proposing(student, assigned, batch), **self._telling(net, student, batch)}

    def _proposing(self, student: Signals, assigned: Tensor, batch: Batch) -> dict[str, Total]:
        positive, chosen = sampled(assigned, self.anchors, self.positive_anchors)
        logits = upcast(student["objectness"])
        classes = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
        target = encode(matched(batch["boxes"], assigned), student["anchors"])
        boxes = F.smooth_l1_loss(upcast(student["rpn_deltas"]), target, beta=BETA, reduction="none").sum(-1)
        return {"rpn_class": _over(classes, chosen, chosen), "rpn_box": _over(boxes, positive & chosen, chosen)}

    def _telling(self, net: FasterRCNN, student: Signals, batch: Batch) -> dict[str, Total]:
        objects = is_object(batch)
        # a box that is none is empty: what is said of it is not sampled
        true = torch.where(objects.unsqueeze(-1), batch["boxes"], 0.0)
        added = net.roi([student[name] for name in PYRAMID], true)
        regions = torch.cat([student["proposals"], true], 1)
        assigned = by_overlap(regions, objects, batch)
        positive, chosen = sampled(assigned, self.regions, self.positive_regions)
        logits = upcast(torch.cat([student["logits"], added.logits], 1))
        background = logits.shape[-1] - 1
        labels = torch.where(assigned > BACKGROUND, matched(batch["box_labels"], assigned), background)
        classes = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        deltas = torch.cat([upcast(student["deltas"]), added.deltas], 1)
        of_label = labels.clamp(max=background - 1).view(*labels.shape, 1, 1).expand(-1, -1, 1, 4)
        target = encode(matched(batch["boxes"], assigned), regions, WEIGHTS)
        boxes = F.smooth_l1_loss(deltas.gather(2, of_label).squeeze(2), target, beta=BETA, reduction="none").sum(-1)
        return {"class": _over(classes, chosen, chosen), "box": _over(boxes, positive & chosen, chosen)}


def by_overlap(regions: Tensor, objects: Tensor, batch: Batch) -> Tensor:
    """What each proposal is to find, as ``assign`` says it: (N, K, 4), bool (N, M) -> int64 (N, K)."""
    overlaps = torch.where(objects.unsqueeze(1), iou(regions.unsqueeze(2), batch["boxes"].unsqueeze(1)), UNMATCHED)
    best, index = overlaps.max(-1)
    assigned = settle(torch.where(best >= OBJECT, index, BACKGROUND), regions.unsqueeze(1), batch)
    return torch.where(is_region(regions), assigned, IGNORED)


def sampled(assigned: Tensor, number: int, share: float) -> tuple[Tensor, Tensor]:
    """Which positions have an object, and which are chosen: bool (N, A) each.

    Of every image at most ``number`` are chosen at random, at most that share of them positive, the rest background.
    """
    positive, background = assigned > BACKGROUND, assigned == BACKGROUND
    draw = torch.rand(assigned.shape, device=assigned.device)
    few = _highest(draw, positive, torch.full_like(assigned[:, 0], int(number * share)), number)
    return positive, few | _highest(draw, background, number - few.sum(1), number)


def _highest(draw: Tensor, allowed: Tensor, quota: Tensor, most: int) -> Tensor:
    """As many of the allowed positions of each row as its quota says, those of the highest draw."""
    found, at = torch.where(allowed, draw, -1.0).topk(min(most, draw.shape[1]))
    rank = torch.arange(found.shape[1], device=draw.device)
    return torch.zeros_like(allowed).scatter(1, at, (found >= 0) & (rank < quota.unsqueeze(1)))


def _over(terms: Tensor, at: Tensor, chosen: Tensor) -> Total:
    return Total(torch.where(at, terms, 0.0).sum().float(), chosen.sum())


def two_stage(model: nn.Module, role: str) -> FasterRCNN:
    """The model itself.

    Raises:
        ValueError: it is no Faster R-CNN.
    """
    if not isinstance(model, FasterRCNN):
        raise ValueError(f"the {role} is a {type(model).__name__}, and this loss is for `detection.faster_rcnn`")
    return model
