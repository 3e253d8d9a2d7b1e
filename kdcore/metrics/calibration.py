"""Whether the net knows how sure it may be."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from kdcore.metrics.accuracy import check_labels
from kdcore.signals import IGNORE

_UNIT = 2.0**30
"""Gaps are summed as integers of this unit: exact, and so the same in any order, in any split and on any device."""


class Calibration(Metric):
    """Expected calibration error: ``sum_b |sum of (right - confidence) in bin b| / positions``.

    In [0, 1], less is better. Confidence is the largest softmax probability; bins are of equal width, closed on the
    right. A label of -100 does not count; logits of NaN count as the largest gap, 1. NaN before anything labelled was
    seen.

    Args:
        bins: how many; 15 as in the paper.
        class_axis: where the classes are in the logits; filled in from the task.

    **Paper**: Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv 1706.04599), eq. 3.

    Raises:
        ValueError: ``bins`` is below 1; labels do not fit the logits.
    """

    takes: ClassVar[str] = "preds_target"
    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    gaps: Tensor
    total: Tensor

    def __init__(self, *, bins: int = 15, class_axis: int = -1) -> None:
        super().__init__()
        if bins < 1:
            raise ValueError(f"bins={bins} is below 1")
        self.bins, self.class_axis = bins, class_axis
        self.add_state("gaps", torch.zeros(bins, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: logits (N, C), (N, T, C) or (N, C, H, W), and integer labels without the class axis."""
        check_labels(preds, target, self.class_axis)
        labelled = target != IGNORE
        preds = preds.float()
        largest, guess = preds.max(self.class_axis)
        confidence = (largest - preds.logsumexp(self.class_axis)).exp()
        gap = torch.where(labelled, (guess == target).float() - confidence, 0.0).nan_to_num(1.0)
        bins = (confidence * self.bins).ceil().nan_to_num(1.0).long().clamp(1, self.bins) - 1
        self.gaps = self.gaps.index_add(0, bins.flatten(), (gap * _UNIT).round().long().flatten())
        self.total = self.total + labelled.sum()

    def compute(self) -> Tensor:
        return self.gaps.abs().sum() / (self.total * _UNIT)
