"""What every detector offers to the task, and how many boxes become few."""

from __future__ import annotations

from typing import NamedTuple

import torch
from kdcore.signals import Batch, Signals
from torch import Tensor, nn
from torchvision.ops import nms


class Detections(NamedTuple):
    """What a detector has found, best first: D of every image, padded with score 0, label -1, box 0.

    Attributes:
        boxes: float32 (N, D, 4).
        scores: float32 (N, D), in [0, 1].
        labels: int64 (N, D).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detector(nn.Module):
    """Base class of every detector. Boxes are xyxy in pixels of the image it is called with.

    Attributes:
        score_threshold: a detection at or below it is dropped.
    """

    score_threshold: float = 0.0

    def forward(self, image: Tensor) -> Signals:
        """Raw outputs and the boxes decoded from them, the same in train and eval mode.

        Args:
            image: (N, channels, H, W), normalised.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement forward(image)")

    def assign(self, signals: Signals, batch: Batch) -> Tensor | None:
        """What each position is to find: the index of a box, -1 for background, -2 to be ignored. Int64 (N, A).

        ``None`` for a detector whose loss matches predictions with boxes itself.
        """
        return None

    def detections(self, signals: Signals) -> Detections:
        """Choose among the decoded ``boxes`` of the signals, which the task has clipped to the image."""
        raise NotImplementedError(f"{type(self).__name__} does not implement detections(signals)")


def check_selection(score_threshold: float, nms_threshold: float, limit: int, candidates: int) -> None:
    """Refuse what no detection would survive.

    Raises:
        ValueError: a threshold outside [0, 1], or no detections.
    """
    for name, value in (("score_threshold", score_threshold), ("nms_threshold", nms_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} is not in [0, 1]")
    if limit < 1 or candidates < limit:
        raise ValueError(f"detections={limit} and candidates={candidates}: give at least 1, and as many candidates")


def best_classes(scores: Tensor, boxes: Tensor, candidates: int) -> Detections:
    """The best pairs of position and class of every image.

    Args:
        scores: (N, A, C).
        boxes: (N, A, 4), the same for all classes, or (N, A, C, 4).
        candidates: how many of the A * C pairs; all of them where there are fewer.
    """
    classes = scores.shape[-1]
    pairs = scores.flatten(1)
    found, at = pairs.topk(min(candidates, pairs.shape[1]))
    rows = at if boxes.ndim == 4 else at.div(classes, rounding_mode="floor")
    chosen = boxes.flatten(1, -2).gather(1, rows.unsqueeze(-1).expand(-1, -1, 4))
    return Detections(chosen.float(), found.float(), at % classes)


def keep_best(found: Detections, *, score_threshold: float, nms_threshold: float | None, limit: int) -> Detections:
    """Non-maximum suppression within each class of each image, then the best ``limit``.

    Each class is in a column and each image in a row of one large plane, so that none overlaps another. Sizes do not
    depend on values: this exports, and waits for the device only inside of ``nms``, once.

    Args:
        found: K candidates of every image.
        score_threshold: a candidate at or below it is dropped.
        nms_threshold: of two boxes with an intersection over union above it the better one stays; ``None`` keeps both.
        limit: D, or K where that is less.
    """
    alive = found.scores > score_threshold
    if nms_threshold is not None:
        alive = alive & _unsuppressed(found, alive, nms_threshold)
    scores, at = torch.where(alive, found.scores, 0.0).topk(min(limit, found.scores.shape[1]))
    real = scores > 0
    boxes = found.boxes.gather(1, at.unsqueeze(-1).expand(-1, -1, 4))
    labels = found.labels.gather(1, at)
    return Detections(torch.where(real.unsqueeze(-1), boxes, 0.0), scores, torch.where(real, labels, -1))


def _unsuppressed(found: Detections, alive: Tensor, threshold: float) -> Tensor:
    """Bool (N, K)."""
    boxes = found.boxes
    low, high = boxes.min(), boxes.max()
    step = high - low + 1
    images = torch.arange(boxes.shape[0], device=boxes.device).unsqueeze(1).expand_as(found.labels)
    # columns and rows, not one long line: float32 would lose the fractions of a pixel
    shift = torch.stack([found.labels * step, images * step], -1)
    apart = boxes + torch.cat([shift, shift], -1) - low
    # what is dropped anyway lies on one heap apart from all, so that the first of it suppresses the rest at once
    heap = torch.stack([-2 * step, -2 * step, -step, -step])
    apart = torch.where(alive.unsqueeze(-1), apart, heap)
    scores = torch.where(alive, found.scores, 0.0)
    if _at_once(boxes):
        return _kept(apart.flatten(0, 1), scores.flatten(), threshold).view(scores.shape)
    # the time grows with the square of the boxes
    return torch.stack([_kept(*image, threshold) for image in zip(apart, scores, strict=True)])


def _at_once(boxes: Tensor) -> bool:
    """Whether one call has all images: an export knows no loop, and on a device each call is a wait for it."""
    return torch.compiler.is_compiling() or boxes.device.type != "cpu"


def _kept(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Bool (K,)."""
    return torch.zeros_like(scores, dtype=torch.bool).index_fill(0, nms(boxes, scores, threshold), True)
