"""Boxes as tensors: xyxy, absolute pixels, float32. Nothing here waits for the device."""

from __future__ import annotations

import math

import torch
from kdcore.losses.functional import upcast
from kdcore.signals import IGNORE, Batch
from torch import Tensor

EPSILON = 1e-7
"""What areas and sides are at least where they divide: padded boxes have none."""

LARGEST_GROWTH = math.log(1000.0 / 16.0)
"""Of a side from its anchor's, as a logarithm: no box of a wild prediction is infinite (torchvision's limit)."""


def is_box(batch: Batch) -> Tensor:
    """Which of a batch's boxes are no padding: bool (N, M)."""
    labels: Tensor = batch["box_labels"]
    return labels != IGNORE


def is_object(batch: Batch) -> Tensor:
    """Which of a batch's boxes are to be found: those that are neither padding nor ignored. Bool (N, M)."""
    boxes = is_box(batch)
    return boxes & ~batch["box_ignore"] if "box_ignore" in batch else boxes


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """(..., 4) -> (..., 4), no side beyond the image."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], -1)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...); 0 for a box with no extent."""
    x1, y1, x2, y2 = upcast(boxes).unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def centre(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 4) -> x and y of the middle, each (...)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 + x2) / 2, (y1 + y2) / 2


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes that broadcast: (..., 4), (..., 4) -> (...), in [0, 1]; 0 where both are empty.

    Every box with every other one: ``iou(a[..., :, None, :], b[..., None, :, :])``. Value and gradient are finite.
    """
    shared, union = _overlap(a, b)
    return shared / union.clamp(min=EPSILON)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """``iou - (hull - union) / hull``, hull the smallest box around both: (..., 4), (..., 4) -> (...), in [-1, 1].

    Boxes broadcast as in :func:`iou`. Value and gradient are finite.

    **Paper**: Rezatofighi et al., Generalized Intersection over Union, 2019 (arXiv 1902.09630), algorithm 1.
    """
    shared, union = _overlap(a, b)
    ax1, ay1, ax2, ay2 = upcast(a).unbind(-1)
    bx1, by1, bx2, by2 = upcast(b).unbind(-1)
    hull = (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)) * (torch.maximum(ay2, by2) - torch.minimum(ay1, by1))
    return shared / union.clamp(min=EPSILON) - (hull - union) / hull.clamp(min=EPSILON)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """The area that boxes which broadcast share: (..., 4), (..., 4) -> (...)."""
    ax1, ay1, ax2, ay2 = upcast(a).unbind(-1)
    bx1, by1, bx2, by2 = upcast(b).unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    return width * height


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union."""
    shared = intersection(a, b)
    return shared, area(a) + area(b) - shared


Weights = tuple[float, float, float, float]


def encode(boxes: Tensor, anchors: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """How far boxes are from their anchors, in the anchors' sides: (..., 4) -> (..., 4) of dx, dy, log dw, log dh.

    **Paper**: Girshick et al., R-CNN, 2013 (arXiv 1311.2524), appendix C.
    """
    (x, y), (width, height) = centre(boxes), _sides(boxes)
    (anchor_x, anchor_y), (anchor_width, anchor_height) = centre(anchors), _sides(anchors)
    deltas = (
        (x - anchor_x) / anchor_width,
        (y - anchor_y) / anchor_height,
        (width / anchor_width).log(),
        (height / anchor_height).log(),
    )
    return torch.stack([delta * weight for delta, weight in zip(deltas, weights, strict=True)], -1)


def decode(deltas: Tensor, anchors: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The inverse of :func:`encode`; a box is at most 62.5 times as wide or as high as its anchor."""
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(upcast(deltas).unbind(-1), weights, strict=True))
    (anchor_x, anchor_y), (anchor_width, anchor_height) = centre(anchors), _sides(anchors)
    x, y = anchor_x + dx * anchor_width, anchor_y + dy * anchor_height
    half_width = 0.5 * anchor_width * dw.clamp(max=LARGEST_GROWTH).exp()
    half_height = 0.5 * anchor_height * dh.clamp(max=LARGEST_GROWTH).exp()
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1).clamp(min=EPSILON), (y2 - y1).clamp(min=EPSILON)
