"""What the losses over maps (N, C, H, W) share: labels and masks at a map's size, unit vectors, checks of shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kdcore.losses.functional import upcast
from kdcore.signals import IGNORE, Batch
from torch import Tensor, nn


def labels_at(batch: Batch, size: torch.Size, loss: str) -> Tensor:
    """The batch's labels, (N, H, W) int64, nearest to the positions of a map; -100 also where the mask leaves out.

    Raises:
        KeyError: the batch has no ``labels``.
        ValueError: the labels are no integers (N, H, W), or the mask does not fit them.
    """
    if "labels" not in batch:
        raise KeyError(f"{loss} reads the batch's `labels`, which this data does not give")
    labels: Tensor = batch["labels"]
    if labels.ndim != 3 or labels.is_floating_point():
        raise ValueError(
            f"{loss} reads integer labels (N, H, W), the batch's are {labels.dtype} of shape {tuple(labels.shape)}"
        )
    mask = batch.get("mask")
    if mask is not None:
        labels = labels.masked_fill(~_fitting(mask, labels), IGNORE)
    return _nearest(labels, size)


def mask_at(batch: Batch, size: torch.Size, samples: int) -> Tensor | None:
    """The batch's mask, (N, H, W) bool, nearest to the positions of a map; ``None`` where there is none.

    Raises:
        ValueError: the mask is not (N, H, W) with N samples.
    """
    mask: Tensor | None = batch.get("mask")
    if mask is None:
        return None
    if mask.ndim != 3 or len(mask) != samples:
        raise ValueError(
            f"the batch's `mask` has shape {tuple(mask.shape)}, maps of {samples} samples take ({samples}, H, W)"
        )
    return _nearest(mask, size)


def check_maps(student: Tensor, teacher: Tensor, *, channels: bool) -> None:
    """Refuse two signals that are no maps of the same samples and positions (and ``channels``).

    Raises:
        ValueError: one is not (N, C, H, W), or their shapes do not fit.
    """
    for role, x in (("student", student), ("teacher", teacher)):
        if x.ndim != 4:
            raise ValueError(f"the {role}'s signal has shape {tuple(x.shape)}; this loss compares maps (N, C, H, W)")
    both = f"the student's map has shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}"
    if len(student) != len(teacher) or student.shape[2:] != teacher.shape[2:]:
        raise ValueError(f"{both}: give the loss `resize: student` or `resize: teacher` where spatial sizes differ")
    if channels and student.shape[1] != teacher.shape[1]:
        raise ValueError(f"{both}: give the tap a projector, such as `project: conv1x1`, where channels differ")


def unit(x: Tensor, *, axis: int = 1, eps: float = 1e-8) -> Tensor:
    """``x / |x|`` in float32. A vector shorter than ``eps`` has no direction: it becomes 0, its gradient too.

    Dividing by a clamped norm instead gives the dead vectors behind a ReLU a gradient of 1 / eps.
    """
    x = upcast(x)
    norm = torch.linalg.vector_norm(x, dim=axis, keepdim=True)
    dead = norm < eps
    return torch.where(dead, 0.0, x / torch.where(dead, 1.0, norm))


def through(module: nn.Module, x: Tensor) -> Tensor:
    """A trained part of a loss, run in the type of its weights: half precision where the whole run is."""
    weight = next(module.parameters(), x)
    return upcast(module(x.to(weight.dtype)))


def _nearest(x: Tensor, size: torch.Size) -> Tensor:
    """(N, H, W) of any type -> (N, *size)."""
    if x.shape[1:] == size:
        return x
    # float64 holds every label exactly
    return F.interpolate(x.unsqueeze(1).double(), size=tuple(size), mode="nearest").squeeze(1).to(x.dtype)


def _fitting(mask: Tensor, labels: Tensor) -> Tensor:
    if mask.shape != labels.shape:
        raise ValueError(f"the batch's `mask` has shape {tuple(mask.shape)}, its `labels` {tuple(labels.shape)}")
    return mask
