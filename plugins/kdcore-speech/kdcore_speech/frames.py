"""Frames of sound: which of them count, and how those of one net lie beside those of another."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

Count = TypeVar("Count", int, Tensor)
"""A number of samples or frames: one, or int64 of any shape."""


def ceil_div(count: Count, by: int) -> Count:
    """``count / by``, rounded up."""
    return -(-count // by)


def frame_mask(frames: Tensor, size: int) -> Tensor:
    """Bool (N, size): true for the first ``frames[n]`` of each sample. Nothing waits for the device."""
    return torch.arange(size, device=frames.device) < frames.unsqueeze(-1)


def align(signal: Tensor, size: int) -> Tensor:
    """The frames of another net at the moments of ours: (N, T, ...) -> (N, size, ...), each the nearest in time.

    Both cover the same samples, padding included, so that frame ``i`` of ``size`` stands for the time ``(i + 1/2) /
    size`` of them. Frames are repeated or left out, never mixed: the mean of two frames of a CTC net is none that it
    would give.
    """
    given = signal.shape[1]
    if given == size:
        return signal
    centres = torch.arange(size, device=signal.device) * 2 + 1
    return signal.index_select(1, centres * given // (2 * size))
