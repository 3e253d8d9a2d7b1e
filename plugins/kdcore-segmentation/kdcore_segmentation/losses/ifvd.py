"""Intra-class feature variation: how far each pixel is from the middle of its class."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from kdcore.losses import functional
from kdcore.losses.base import Loss, Total
from kdcore.losses.functional import upcast
from kdcore.losses.maps import check_maps
from kdcore.signals import Batch, Signals
from torch import Tensor

from kdcore_segmentation.losses.maps import labels_at


class IntraClassVariation(Loss):
    """``(cos(s_p, mean of s in p's class) - cos(t_p, mean of t in p's class))^2``, mean over labelled positions p.

    The prototype of a class is the mean of the features at all positions of one image that carry its label. How alike
    each feature is to its prototype is the variation within the class, which the student takes from the teacher.

    **Shape**: student and teacher ``feature`` (N, C, H, W), bound with ``at:``; H and W equal, C need not be.
    ``batch["labels"]`` int64 (N, H', W'), -100 = none, and optionally ``mask`` bool of the same shape: both are
    taken at the nearest positions where the map is smaller.

    **Reduction**: ``count`` is the number of the map's positions that have a label and that the mask keeps. A class
    that an image does not show has no terms there. The batch's ``weight`` is not read.

    Args:
        classes: number of classes; the task's when left out.

    Raises:
        KeyError: the batch has no ``labels``.
        ValueError: the signals are no maps, or of other samples or spatial sizes; labels or mask do not fit.

    **Paper**: Wang et al., Intra-class Feature Variation Distillation for Semantic Segmentation, ECCV 2020.
    **Deviation**: positions without a label are left out of the mean. A vector of zeros has the cosine 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "teacher.feature"})
    signal: ClassVar[str] = "feature"

    def __init__(self, *, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        s, t = student["feature"], teacher["feature"]
        check_maps(s, t, channels=False)
        labels = labels_at(batch, s.shape[2:], "ifvd").flatten(1)
        shown = labels.unsqueeze(1) == torch.arange(self.classes, device=labels.device).view(1, -1, 1)  # (N, K, HW)
        labelled = shown.any(1)
        terms = (_distance(s, shown) - _distance(t, shown)).square()
        return Total(torch.where(labelled, terms, 0.0).sum().float(), labelled.sum())


def _distance(x: Tensor, shown: Tensor) -> Tensor:
    """(N, HW): one minus the cosine between each feature and the prototype of its class."""
    # a position without a label may hold anything
    x = torch.where(shown.any(1, keepdim=True), upcast(x).flatten(2), 0.0)
    one_hot = shown.to(x.dtype)
    sizes = one_hot.sum(2).clamp(min=1.0)  # (N, K)
    prototypes = x @ one_hot.transpose(1, 2) / sizes.unsqueeze(1)  # (N, C, K)
    return functional.cosine_distance(x, prototypes @ one_hot, axis=1)
