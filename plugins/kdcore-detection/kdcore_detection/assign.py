"""Which position of a dense detector is to find which box: a whole batch at once, without waiting for the device.

All functions take the anchors of one image (A, 4), the padded boxes of N images (N, M, 4) and which of them count,
bool (N, M), and give int64 (N, A): the index of a box, or what the constants below say.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from kdcore.signals import Batch
from torch import Tensor

from kdcore_detection.boxes import area, centre, iou, is_box

BACKGROUND = -1
"""The position is to find nothing."""
IGNORED = -2
"""The position has no term in any supervised loss."""

UNMATCHED = -1.0
"""Less than any intersection over union."""


def by_centre(anchors: Tensor, boxes: Tensor, real: Tensor, *, radius: float, reach: float) -> Tensor:
    """FCOS: the smallest box that a point lies inside of, near to its middle, and of a size that suits the level.

    Args:
        anchors: a square around each point, as wide as its level's stride.
        radius: a point is at most so many strides from the middle of the box, along both axes.
        reach: the farthest side is ``reach / 2`` to ``reach`` strides away; on the finest level it may be nearer, on
            the coarsest farther.

    **Paper**: Tian et al., FCOS, 2019 (arXiv 1904.01355), section 3.2; centre sampling is from its extension, 2020
    (arXiv 2006.09214).
    """
    size = anchors[:, 2] - anchors[:, 0]
    nearer = torch.where(size == size.amin(), 0.0, 0.5 * reach * size)
    farther = torch.where(size == size.amax(), torch.inf, reach * size)
    left, top, right, bottom = _distances(anchors, boxes)
    nearest = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom))
    farthest = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
    # |left - right| / 2 is how far the point is from the middle
    from_middle = torch.maximum((left - right).abs(), (top - bottom).abs()) / 2
    fits = (nearest > 0) & (from_middle < radius * size) & (farthest >= nearer) & (farthest <= farther)
    sizes = torch.where(fits & real.unsqueeze(-1), area(boxes).unsqueeze(-1), torch.inf)
    smallest, index = sizes.min(1)
    return torch.where(smallest < torch.inf, index, BACKGROUND)


def by_iou(anchors: Tensor, boxes: Tensor, real: Tensor, *, above: float, below: float) -> Tensor:
    """RetinaNet: the box that overlaps an anchor most, where they overlap enough, and the best anchors of every box.

    An anchor that is the best of a box, but overlaps another one more, is the other's: the box may be left without.

    Args:
        above: from this intersection over union on the anchor is the box's.
        below: less than this is background; what lies between is ignored.

    **Paper**: Lin et al., Focal Loss for Dense Object Detection, 2017 (arXiv 1708.02002), section 4. That a box which
    no anchor overlaps enough gets those that overlap it most is from Ren et al., Faster R-CNN, 2015 (arXiv 1506.01497).
    """
    overlaps = iou(boxes.unsqueeze(2), anchors)  # (N, M, A)
    overlaps = torch.where(real.unsqueeze(-1), overlaps, UNMATCHED)
    best, index = overlaps.max(1)
    of_box = overlaps.amax(2, keepdim=True)
    is_best = ((overlaps == of_box) & (of_box > 0)).any(1)
    otherwise = torch.where(best < below, BACKGROUND, IGNORED)
    return torch.where((best >= above) | is_best, index, otherwise)


def by_statistics(anchors: Tensor, boxes: Tensor, real: Tensor, *, levels: Sequence[int], candidates: int) -> Tensor:
    """ATSS: of the anchors nearest to a box's middle those that overlap it more than most of them do.

    The middle of an anchor lies inside the box; an anchor that several boxes want is that of the one it overlaps most.

    Args:
        levels: how many anchors each level has, in the order of ``anchors``.
        candidates: how many of each level; all of them where it has fewer.

    **Paper**: Zhang et al., ATSS, 2019 (arXiv 1912.02424), algorithm 1.
    """
    at, overlaps, threshold = statistics(anchors, boxes, levels=levels, candidates=candidates)
    (x, y), (x1, y1, x2, y2) = centre(anchors[at]), boxes.unsqueeze(2).unbind(-1)
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    fits = (overlaps >= threshold.unsqueeze(2)) & inside & real.unsqueeze(-1)
    nobody = overlaps.new_full((*boxes.shape[:2], len(anchors)), UNMATCHED)
    best, index = nobody.scatter(2, at, torch.where(fits, overlaps, UNMATCHED)).max(1)
    return torch.where(best >= 0, index, BACKGROUND)


def statistics(
    anchors: Tensor, boxes: Tensor, *, levels: Sequence[int], candidates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The anchors nearest to each box's middle, ``candidates`` of each level, and how they overlap it.

    Returns:
        Their indices (N, M, K); their intersection over union with the box (N, M, K); its mean plus its standard
        deviation (N, M), which is the threshold of ATSS.
    """
    (x, y), (box_x, box_y) = centre(anchors), centre(boxes)
    apart = (x - box_x.unsqueeze(-1)).square() + (y - box_y.unsqueeze(-1)).square()  # (N, M, A)
    nearest, start = [], 0
    for count in levels:
        of_level = apart.narrow(2, start, count)
        nearest.append(of_level.topk(min(candidates, count), dim=2, largest=False).indices + start)
        start += count
    at = torch.cat(nearest, 2)
    overlaps = iou(anchors[at], boxes.unsqueeze(2))
    # one candidate alone has no standard deviation
    spread = overlaps.std(2) if at.shape[2] > 1 else torch.zeros_like(box_x)
    return at, overlaps, overlaps.mean(2) + spread


def settle(assigned: Tensor, anchors: Tensor, batch: Batch) -> Tensor:
    """Background becomes ignored inside of ignored boxes, and everything does where an image's boxes are not known."""
    if "box_ignore" in batch:
        left, top, right, bottom = _distances(anchors, batch["boxes"])
        inside = (left > 0) & (top > 0) & (right > 0) & (bottom > 0)
        hidden = (inside & (batch["box_ignore"] & is_box(batch)).unsqueeze(-1)).any(1)
        assigned = torch.where(hidden & (assigned == BACKGROUND), IGNORED, assigned)
    if "boxes_known" in batch:
        assigned = torch.where(batch["boxes_known"].unsqueeze(-1), assigned, IGNORED)
    return assigned


def matched(values: Tensor, assigned: Tensor) -> Tensor:
    """What belongs to each position's box: (N, M, ...), (N, A) -> (N, A, ...). The first box's where it has none."""
    at = assigned.clamp(min=0)
    if values.ndim == 3:
        at = at.unsqueeze(-1).expand(-1, -1, values.shape[2])
    return values.gather(1, at)


def _distances(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From the middle of every anchor to the left, top, right and bottom of every box: (N, M, A) each."""
    x, y = centre(anchors)
    x1, y1, x2, y2 = (side.unsqueeze(-1) for side in boxes.unbind(-1))
    return x - x1, y - y1, x2 - x, y2 - y
