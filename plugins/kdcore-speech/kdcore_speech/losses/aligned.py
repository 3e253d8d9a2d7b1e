"""The frames of a teacher beside those of a student: the same moments of every clip."""

from __future__ import annotations

import torch
from kdcore.losses.functional import hide, upcast
from kdcore.signals import Signals
from torch import Tensor

from kdcore_speech.frames import frame_mask


def aligned(theirs: Tensor, their_frames: Tensor, our_frames: Tensor, size: int) -> Tensor:
    """What another net says at the moments of our frames: (N, T', ...) -> (N, size, ...), each the nearest in time.

    Clip by clip: the frames of both that count cover the same sound, whatever either was padded to. Behind our last
    frame that counts there is anything.

    Args:
        theirs: the other net's frames.
        their_frames: int64 (N,), how many of T' count.
        our_frames: int64 (N,), how many of ``size`` count.
        size: how many frames of ours there are, padding included.
    """
    centres = 2 * torch.arange(size, device=theirs.device) + 1
    at = centres * their_frames.unsqueeze(1) // (2 * our_frames.unsqueeze(1))
    at = at.clamp(max=theirs.shape[1] - 1).view(*at.shape, *[1] * (theirs.ndim - 2))
    return theirs.gather(1, at.expand(-1, -1, *theirs.shape[2:]))


def frame_pairs(student: Signals, teacher: Signals) -> tuple[Tensor, Tensor, Tensor]:
    """``feature`` of both in at least float32, (N, T, D) and (N, T, D'), with zeros behind the student's last frame,
    and the mask bool (N, T) of the frames that count, which are the student's ``frames``.

    Raises:
        ValueError: one of the two is not (N, T, D).
    """
    ours, frames = student["feature"], student["frames"]
    for owner, feature in (("student", ours), ("teacher", teacher["feature"])):
        if feature.ndim != 3:
            raise ValueError(
                f"the {owner}'s feature has shape {tuple(feature.shape)}; frames (N, T, D) are compared: tap a place "
                "where the net still has frames, such as `encoder.blocks.1` or `encoder/0`"
            )
    theirs = aligned(teacher["feature"], teacher["frames"], frames, ours.shape[1])
    mask = frame_mask(frames, ours.shape[1])
    return hide(upcast(ours), mask), hide(upcast(theirs), mask), mask


def check_widths(ours: Tensor, theirs: Tensor, hint: str) -> None:
    """Refuse frames of different width.

    Raises:
        ValueError: they differ; ``hint`` says what to do.
    """
    if ours.shape[-1] != theirs.shape[-1]:
        raise ValueError(
            f"a frame of the student has {ours.shape[-1]} features, one of the teacher {theirs.shape[-1]}: {hint}"
        )
