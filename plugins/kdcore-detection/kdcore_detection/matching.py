"""Which query answers for which box: what a pair costs, and the cheapest pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from kdcore.signals import Batch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from kdcore_detection.assign import settle
from kdcore_detection.boxes import centre, giou, is_object

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal cost, as in Deformable DETR and RT-DETR."""
TINY = 1e-8
"""Keeps the focal cost's logarithms finite."""


def relative(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels to (centre x, centre y, width, height) as shares of an image of this height and width: (..., 4)."""
    height, width = size
    x, y = centre(boxes)
    w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return torch.stack([x / width, y / height, w / width, h / height], -1)


def softmax_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """``-p(label)``, no-object among the classes: (N, Q, C + 1), (N, M) -> (N, Q, M).

    **Paper**: Carion et al., DETR, 2020 (arXiv 2005.12872), section 3.1.
    """
    return -_at(logits.float().softmax(-1), labels)


def focal_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """What the focal loss would be with the label less what it would be without: (N, Q, C), (N, M) -> (N, Q, M).

    **Paper**: Zhu et al., Deformable DETR, 2020 (arXiv 2010.04159), appendix A.4, which takes focal loss to DETR.
    """
    p = _at(logits.float().sigmoid(), labels)
    with_label = ALPHA * (1 - p).pow(GAMMA) * -(p + TINY).log()
    without = (1 - ALPHA) * p.pow(GAMMA) * -(1 - p + TINY).log()
    return with_label - without


def _at(scores: Tensor, labels: Tensor) -> Tensor:
    """The scores of each target's class; padding (-100) reads class 0, and is left out of the matching."""
    index = labels.clamp(min=0).unsqueeze(1).expand(-1, scores.shape[1], -1)
    return scores.gather(-1, index)


def box_cost(boxes: Tensor, targets: Tensor, size: tuple[int, int], *, l1: float, giou_weight: float) -> Tensor:
    """``l1 * |b - t|_1 - giou_weight * GIoU(b, t)``, the first of relative boxes: (N, Q, 4), (N, M, 4) -> (N, Q, M)."""
    apart = torch.cdist(relative(boxes.float(), size), relative(targets.float(), size), p=1.0)
    return l1 * apart - giou_weight * giou(boxes.unsqueeze(2), targets.unsqueeze(1))


CLASS_COST = {True: 1.0, False: 2.0}
"""Weight of the class, with softmax as in DETR, with sigmoids as in Deformable DETR and RT-DETR."""


def object_cost(logits: Tensor, boxes: Tensor, batch: Batch, *, softmax: bool, l1: float, giou_weight: float) -> Tensor:
    """What every query of every layer costs with every box of the image: (N, L, Q, M).

    Args:
        logits: (N, L, Q, .).
        boxes: (N, L, Q, 4).
        batch: ``image``, for its size, ``boxes`` and ``box_labels``.
        softmax: the last class is no-object; else each class has a probability of its own.
        l1: weight of the distance of relative boxes.
        giou_weight: weight of the generalised intersection over union.
    """
    of_class = (softmax_cost if softmax else focal_cost)(logits.flatten(1, 2), batch["box_labels"])
    size = batch["image"].shape[-2:]
    of_box = box_cost(boxes.flatten(1, 2), batch["boxes"], size, l1=l1, giou_weight=giou_weight)
    return (CLASS_COST[softmax] * of_class + of_box).view(*logits.shape[:3], -1)


def known_objects(batch: Batch) -> Tensor:
    """Which boxes are to be found: no padding, not ignored, of images whose boxes are known. Bool (N, M)."""
    objects = is_object(batch)
    return objects & batch["boxes_known"].unsqueeze(-1) if "boxes_known" in batch else objects


@torch.no_grad()
def match_objects(
    logits: Tensor, boxes: Tensor, batch: Batch, *, softmax: bool, l1: float, giou_weight: float
) -> Tensor:
    """The object that each query of each layer is to find, as ``assign`` of a dense detector says it.

    The arguments are those of :func:`object_cost`; the batch may say that boxes are ignored, or not known.

    Returns:
        int64 (N, L, Q): index of a box, -1 for none, -2 for a query that has no term: the middle of its box lies in an
        ignored box, or the image's boxes are not known.
    """
    cost = object_cost(logits, boxes, batch, softmax=softmax, l1=l1, giou_weight=giou_weight)
    found: Tensor = match(cost, is_object(batch))
    return settle(found.flatten(1), boxes.flatten(1, 2).unsqueeze(1), batch).view(found.shape)


@torch.library.custom_op("kdcore_detection::match", mutates_args=())
def match(cost: torch.Tensor, is_target: torch.Tensor) -> torch.Tensor:
    """The pairs of least total cost, by the Hungarian method on the host.

    One wait for the device, whatever number of matrices: call it once with all decoder layers. It is an operator of its
    own, so that a compiled step goes around it.

    Args:
        cost: float (N, L, Q, M). What is no number costs more than all else.
        is_target: bool (N, M); the others are matched with nobody.

    Returns:
        int64 (N, L, Q): the target of each query, -1 for none. Of more targets than queries some have none.
    """
    costs, targets = _on_the_host(cost, is_target)
    return torch.from_numpy(_cheapest(costs, targets)).to(cost.device)


@match.register_fake
def _(cost: torch.Tensor, is_target: torch.Tensor) -> torch.Tensor:
    return cost.new_empty(cost.shape[:3], dtype=torch.int64)


@torch.library.custom_op("kdcore_detection::match_pairs", mutates_args=())
def match_pairs(cost: torch.Tensor, truth: torch.Tensor, is_target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's queries for the student's: first those that find an object, then the others, each at least cost.

    One wait for the device, as in :func:`match`.

    Args:
        cost: float (N, L, Q, T), of each query of the student with each of the teacher.
        truth: float (N, L, T, M), of each query of the teacher with each object.
        is_target: bool (N, M); the others are no objects.

    Returns:
        int64 (N, L, Q), the teacher's query of each query, -1 for none; and bool (N, L, T), which of the teacher's
        find an object.
    """
    costs, truths, targets = _on_the_host(cost, truth, is_target)
    positive = _cheapest(truths, targets) >= 0
    found = np.full(costs.shape[:3], -1)
    for at in np.ndindex(costs.shape[:2]):
        rows = np.arange(costs.shape[2])
        for columns in (positive[at].nonzero()[0], (~positive[at]).nonzero()[0]):
            chosen, of = linear_sum_assignment(costs[at][np.ix_(rows, columns)])
            found[at][rows[chosen]] = columns[of]
            rows = np.delete(rows, chosen)
    return torch.from_numpy(found).to(cost.device), torch.from_numpy(positive).to(cost.device)


@match_pairs.register_fake
def _(cost: torch.Tensor, truth: torch.Tensor, is_target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = cost.new_empty(cost.shape[:3], dtype=torch.int64)
    return found, cost.new_empty(truth.shape[:3], dtype=torch.bool)


DEAR = 1e12
"""A cost above any real one, which float32 still tells apart from its neighbours."""


def _cheapest(costs: Any, targets: Any) -> Any:
    """The target of each query, -1 for none: arrays float (N, L, Q, M), bool (N, M) -> int64 (N, L, Q)."""
    found = np.full(costs.shape[:3], -1)
    for at in np.ndindex(costs.shape[:2]):
        columns = targets[at[0]].nonzero()[0]
        rows, chosen = linear_sum_assignment(costs[at][:, columns])
        found[at][rows] = columns[chosen]
    return found


def _on_the_host(*tensors: Tensor) -> list[Any]:
    """Arrays of all of them, bool or float32, in one transfer. What is no number costs more than all else."""
    flat = torch.cat([x.float().flatten() for x in tensors])
    flat = flat.nan_to_num(nan=DEAR, posinf=DEAR, neginf=-DEAR).clamp(-DEAR, DEAR).cpu()
    parts = zip(torch.split(flat, [x.numel() for x in tensors]), tensors, strict=True)
    return [(part.bool() if x.dtype == torch.bool else part).view(x.shape).numpy() for part, x in parts]
