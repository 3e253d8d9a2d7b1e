"""Two students that learn from each other, each where the other is the more reliable one."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, check_temperature
from kdcore.losses.maps import check_maps
from kdcore.schedules import Scheduled
from kdcore.signals import IGNORE, Batch, Signals
from torch import Tensor

from kdcore_segmentation.losses.maps import labels_at

WORST = 1e4
"""Cross-entropy of a pixel whose net is as wrong as can be."""


class SelectivePixels(Loss):
    """``T^2 KL(softmax(t_p / T) || softmax(s_p / T))``, mean over the pixels p where the teacher is more reliable.

    More reliable is who has the smaller cross-entropy with the label. One slot is one direction; two slots with
    ``student`` and ``teacher`` exchanged make each pixel teach one way, or none where both are equally good.

    **Shape**: both ``logits`` (N, K, H, W), ``batch["labels"]`` int64 (N, H, W), -100 = none, and optionally ``mask``
    bool of the same shape.

    **Reduction**: ``count`` is the number of labelled pixels, kept by the mask, where the teacher is more reliable;
    classes are summed. The batch's ``weight`` is not read.

    Args:
        temperature: T, a number above 0 or a schedule; 1, the plain divergence.

    Raises:
        KeyError: the batch has no ``labels``.
        ValueError: ``temperature`` is not above 0; the signals are no maps, or differ in shape; labels or mask do not
            fit.

    **Paper**: Zhu et al., A Good Student is Cooperative and Reliable: CNN-Transformer Collaborative Learning for
    Semantic Segmentation, ICCV 2023 (arXiv 2307.12574), pixel-wise bidirectional selective distillation.
    **Deviation**: the mean is over the selected pixels, whatever their share of the image.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})

    def __init__(self, *, temperature: Scheduled = 1.0) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        s, t, temperature = student["logits"], teacher["logits"], self.now(self.temperature)
        check_maps(s, t, channels=True)
        labels = labels_at(batch, s.shape[2:], "collaboration_pixel")
        labelled = labels != IGNORE
        s, t = functional.hide(s, labelled, 1), functional.hide(t, labelled, 1)
        with torch.no_grad():
            selected = labelled & (_doubt(t, labels) < _doubt(s, labels))
        terms = functional.kl(s, t, temperature=temperature, axis=1) * temperature**2
        return Total(torch.where(selected, terms, 0.0).sum().float(), selected.sum())


class SelectiveRegions(Loss):
    """``mean over channels of (s_p - t_p)^2``, mean over positions p of the regions where the teacher is more reliable.

    The image is cut into ``grid`` x ``grid`` regions. More reliable in a region is who has the smaller mean
    cross-entropy with its labels. One slot is one direction; two slots with ``student`` and ``teacher`` exchanged make
    each region teach one way, or none where both are equally good or nothing is labelled.

    **Shape**: student and teacher ``feature`` (N, C, H, W), bound with ``at:``; a tap's ``project`` joins channels.
    Both ``logits`` (N, K, H', W'), ``batch["labels"]`` int64 (N, H', W'), -100 = none, and optionally ``mask`` bool of
    the same shape.

    **Reduction**: ``count`` is the number of the feature maps' positions in selected regions. The batch's ``weight`` is
    not read.

    Args:
        grid: regions along each side; 8 by default, which is ours.

    Raises:
        KeyError: the batch has no ``labels``.
        ValueError: ``grid`` is below 1; signals are no maps, or differ in shape; labels or mask do not fit.

    **Paper**: Zhu et al., A Good Student is Cooperative and Reliable: CNN-Transformer Collaborative Learning for
    Semantic Segmentation, ICCV 2023 (arXiv 2307.12574), region-wise bidirectional selective distillation.
    **Deviations**: regions are a fixed grid, the distance of their features is the mean squared error behind the tap's
    projector, and the mean is over the selected regions.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {"student.feature", "teacher.feature", "student.logits", "teacher.logits"}
    )
    signal: ClassVar[str] = "feature"

    def __init__(self, *, grid: int = 8) -> None:
        super().__init__()
        if grid < 1:
            raise ValueError(f"grid={grid}: an image is cut into at least one region")
        self.grid = grid

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        s, t = student["feature"], teacher["feature"]
        check_maps(s, t, channels=True)
        with torch.no_grad():
            selected = self._selected(student["logits"], teacher["logits"], batch)  # (N, grid, grid)
            rows, columns = (self._shares(size, s).argmax(1) for size in s.shape[2:])
            selected = selected[:, rows][:, :, columns]  # (N, H, W)
        # what is not selected may hold anything
        s, t = functional.hide(s, selected, 1), functional.hide(t, selected, 1)
        return Total(functional.squared_error(s, t, axis=1).sum().float(), selected.sum())

    def _selected(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        check_maps(student, teacher, channels=True)
        labels = labels_at(batch, student.shape[2:], "collaboration_region")
        labelled = labels != IGNORE
        doubts = torch.stack([_doubt(functional.hide(x, labelled, 1), labels) for x in (student, teacher)])
        # added up over each region, not averaged: both by the same number of labels
        rows, columns = (self._shares(size, doubts) for size in labels.shape[1:])
        ours, theirs = torch.einsum("rnhw,hi,wj->rnij", doubts, rows, columns)
        more_reliable: Tensor = theirs < ours
        return more_reliable

    def _shares(self, size: int, like: Tensor) -> Tensor:
        """(size, grid): 1 where a position along a side belongs to a region."""
        region = torch.arange(size, device=like.device) * self.grid // size
        return (region.unsqueeze(1) == torch.arange(self.grid, device=like.device)).to(like.dtype)


def _doubt(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, H, W): cross-entropy with the label, 0 where there is none."""
    # infinite where the net excludes the label's class, and 0 times that, in a region elsewhere, is no number
    return functional.cross_entropy(logits, labels, axis=1).clamp(max=WORST)
