"""What lies in a box, pooled from the level of a pyramid that suits its size, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from kdcore_detection.boxes import EPSILON, area

USUAL_SIDE, USUAL_LEVEL = 224, 4
"""A box of this side is pooled from this level, one of half the side from the level below (arXiv 1612.03144, eq. 1)."""
SAMPLES = 2
"""Points along each side of a cell of the pooled map."""


def pooled(pyramid: Sequence[Tensor], boxes: Tensor, *, finest: int, side: int) -> Tensor:
    """RoIAlign over the levels of a pyramid.

    All levels are laid out on one canvas, each with its last row and column repeated, so that a point beyond them is
    read as RoIAlign reads it at the end of a map. Boxes of all levels are then pooled at once. RoIAlign widens a box to
    a cell at least; at the end of a map this one moves it inside, where torchvision reads zeros beyond the end.

    Args:
        pyramid: maps (N, C, h, w), fine to coarse, each of twice the stride of the one before.
        boxes: (N, K, 4) in pixels, inside the image; what comes of an empty one means nothing.
        finest: l of the first map, whose stride is 2^l.
        side: of a pooled map.

    Returns:
        (N * K, C, side, side), float32.

    **Paper**: He et al., Mask R-CNN, 2017 (arXiv 1703.06870), section 3; levels: Lin et al., Feature Pyramid Networks,
    2016 (arXiv 1612.03144), section 4.2.
    """
    n, count = boxes.shape[:2]
    canvas, starts = _canvas([F.pad(level.float(), (0, 1, 0, 1), mode="replicate") for level in pyramid])
    sides = area(boxes).clamp(min=EPSILON).sqrt() / USUAL_SIDE
    level = (USUAL_LEVEL + sides.log2() + 1e-6).floor().clamp(finest, finest + len(pyramid) - 1)
    at = (level - finest).flatten()
    shift, end = _of_level(at, starts), _of_level(at, [(one.shape[3], one.shape[2]) for one in pyramid])
    there = boxes.float().flatten(0, 1) * torch.exp2(-level).flatten().unsqueeze(1)
    low = torch.minimum(there[:, :2], end - 1)
    high = torch.maximum(there[:, 2:], low + 1)
    image = torch.arange(n, device=boxes.device, dtype=torch.float32).repeat_interleave(count).unsqueeze(1)
    rois = torch.cat([image, low + shift, high + shift], 1)
    found: Tensor = roi_align(canvas, rois, side, spatial_scale=1.0, sampling_ratio=SAMPLES)
    return found


def _of_level(at: Tensor, values: list[tuple[int, int]]) -> Tensor:
    """The pair of each one's level, (N * K, 2). Not a table to read from, which would be copied from the host."""
    x, y = torch.zeros_like(at), torch.zeros_like(at)
    for level, (of_x, of_y) in enumerate(values):
        x, y = torch.where(at == level, of_x, x), torch.where(at == level, of_y, y)
    return torch.stack([x, y], 1)


def _canvas(maps: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """The first map with the others in a row below it; and where each begins, (x, y)."""
    first, rest = maps[0], maps[1:]
    height = max((level.shape[2] for level in rest), default=0)
    width = max(first.shape[3], sum(level.shape[3] for level in rest))
    below = [F.pad(level, (0, 0, 0, height - level.shape[2])) for level in rest]
    starts, x = [(0, 0)], 0
    for level in rest:
        starts.append((x, first.shape[2]))
        x += level.shape[3]
    rows = [first, torch.cat(below, 3)] if rest else [first]
    return torch.cat([F.pad(row, (0, width - row.shape[3])) for row in rows], 2), starts
