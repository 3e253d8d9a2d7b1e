"""Labels and masks at the size of a map (N, C, H, W)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kdcore.signals import IGNORE, Batch
from torch import Tensor


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
