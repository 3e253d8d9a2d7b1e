"""What each image adds to average precision, as counts that can be summed: for tests between two nets.

Detections are counted in bins of their score, so the value of a sum is close to COCO's and not equal to it. Detections
of equal score have no order there either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from kdcore.signals import Batch
from torch import Tensor

from kdcore_detection.boxes import area, intersection, iou, is_box
from kdcore_detection.precision import RECALLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kdcore_detection.detector import Detections

CELLS, MOST_BINS, FEWEST_BINS = 2**14, 64, 30
"""Counts of one image at most; bins of the score at most, and those below which AP may be off by more than 0.01."""

REACH = 6.0
"""Scores are binned by their logit, from -6 (a score of .0025) to 6."""


def bins_for(classes: int, thresholds: int) -> int | None:
    """How many bins there are room for; ``None`` where that is too few."""
    bins = min(MOST_BINS, CELLS // (classes * (2 * thresholds + 1)))
    return bins if bins >= FEWEST_BINS else None


def counted(
    detections: Detections, batch: Batch, *, classes: int, thresholds: Sequence[float], bins: int, max_detections: int
) -> Tensor:
    """Counts of each image, int16 (N, C, 2T + 1, bins): right and wrong ones at each threshold, and objects (in bin 0).

    Detections are matched as COCO does: the best first, each with that object of its class which it overlaps most of
    those still free; one that only fits an ignored box does not count.
    """
    labels = detections.labels
    objects = is_box(batch)
    ignored = objects & batch["box_ignore"] if "box_ignore" in batch else torch.zeros_like(objects)
    wanted = objects & ~ignored
    same = labels.unsqueeze(2) == batch["box_labels"].unsqueeze(1)
    earlier = (labels.unsqueeze(2) == labels.unsqueeze(1)).tril().sum(-1)
    counts = (labels >= 0) & (earlier <= max_detections)
    found, boxes = detections.boxes.unsqueeze(2), batch["boxes"].unsqueeze(1)
    overlap = torch.where(same & wanted.unsqueeze(1), iou(found, boxes), -1.0)
    covered = torch.where(
        same & ignored.unsqueeze(1), intersection(found, boxes) / area(found).clamp(min=1e-9), -1.0
    ).amax(-1)
    limits = torch.tensor(list(thresholds), device=labels.device)
    right = _matched(torch.where(counts.unsqueeze(-1), overlap, -1.0), limits)
    wrong = counts.unsqueeze(-1) & ~right & (covered.unsqueeze(-1) < limits)
    place = (detections.scores.float().logit().clamp(-REACH, REACH) + REACH) * ((bins - 1) / (2 * REACH))
    cell = labels.clamp(min=0) * bins + place.round().long()  # (N, D)
    images, steps = len(labels), len(thresholds)
    counters = torch.cat([right, wrong], -1).permute(0, 2, 1).short()
    table = counters.new_zeros(images, 2 * steps, classes * bins)
    table.scatter_add_(2, cell.unsqueeze(1).expand_as(counters), counters)
    of_class = batch["box_labels"].unsqueeze(-1) == torch.arange(classes, device=labels.device)
    there = table.new_zeros(images, classes, 1, bins)
    there[:, :, 0, 0] = (of_class & wanted.unsqueeze(-1)).sum(1).short()
    return torch.cat([table.view(images, 2 * steps, classes, bins).transpose(1, 2), there], 2)


def precision_of(counts: Tensor) -> Tensor:
    """Sums of counts (..., C, 2T + 1, bins) -> precision (..., C), mean over thresholds and recalls.

    NaN for a class without objects. Within a bin, right and wrong detections are taken as evenly mixed.
    """
    steps = counts.shape[-2] // 2
    totals = counts.double()
    objects = totals[..., 2 * steps :, 0]  # (..., C, 1)
    # from the best bin on
    running = totals[..., : 2 * steps, :].flip(-1).cumsum(-1)
    right, wrong = running[..., :steps, :], running[..., steps:, :]
    recalls = torch.linspace(0, 1, RECALLS, device=counts.device, dtype=torch.float64)
    needed = (recalls * objects - 1e-9).ceil().clamp(min=1).unsqueeze(-2)  # (..., C, 1, R)
    needed = needed.expand(*right.shape[:-1], RECALLS).contiguous()
    at = torch.searchsorted(right.contiguous(), needed)
    reached = at < right.shape[-1]
    at = at.clamp(max=right.shape[-1] - 1)
    zero = torch.zeros_like(right[..., :1])
    before = [torch.cat([zero, one[..., :-1]], -1).gather(-1, at) for one in (right, wrong)]
    after = [one.gather(-1, at) for one in (right, wrong)]
    share = (needed - before[0]) / (after[0] - before[0]).clamp(min=1)
    errors = before[1] + share * (after[1] - before[1])
    precision = torch.where(reached, needed / (needed + errors), 0.0)
    envelope = precision.flip(-1).cummax(-1).values
    return torch.where(objects > 0, envelope.mean(-1), torch.nan).mean(-1)


def _matched(overlap: Tensor, limits: Tensor) -> Tensor:
    """Which detections, best first, find a free object: (N, D, M), thresholds (T,) -> bool (N, D, T)."""
    images, detections, boxes = overlap.shape
    free = torch.ones(images, len(limits), boxes, dtype=torch.bool, device=overlap.device)
    numbers = torch.arange(boxes, device=overlap.device)
    found = []
    for k in range(detections):
        best, at = torch.where(free, overlap[:, k].unsqueeze(1), -1.0).max(-1)
        hit = best >= limits
        free = free & ~(hit.unsqueeze(-1) & (numbers == at.unsqueeze(-1)))
        found.append(hit)
    return torch.stack(found, 1)
