"""Frames of sound inside two nets that the tests of the losses share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FRAMES, THEIR_FRAMES = torch.tensor([9, 5, 2, 7]), torch.tensor([13, 8, 3, 10])
"""Of four clips, in the student and in a teacher of a higher rate; T is 9 and 14."""


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def embedded(widths: tuple[int, int] = (6, 5), *, rates: bool = True) -> dict[str, Any]:
    """``feature`` (N, T, D) and ``frames`` of both, and a batch of their ids; what is behind a clip's end is noise.

    Args:
        widths: D of the student and of the teacher.
        rates: whether the teacher makes more frames; as many otherwise.
    """
    theirs, size = (THEIR_FRAMES, 14) if rates else (FRAMES, 9)
    return {
        "student": {"feature": 2 * normal(1, 4, 9, widths[0]), "frames": FRAMES},
        "teacher": {"feature": 2 * normal(2, 4, size, widths[1]), "frames": theirs},
        "batch": {"id": torch.arange(4)},
    }


def coded(codebooks: int = 3, width: int = 6) -> dict[str, Any]:
    """A student's frames, and the codes of a teacher's in the batch, 14 frames of bytes for each clip."""
    codes = torch.randint(256, (4, 14, codebooks), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    given = embedded((width, width))
    batch = {**given["batch"], "codes": codes, "codes_frames": THEIR_FRAMES.to(torch.int32)}
    return {"student": given["student"], "batch": batch}


def nearest(clip: int, moment: int) -> int:
    """The teacher's frame whose middle is nearest to that of a student's frame, found by trying all."""
    ours, theirs = int(FRAMES[clip]), int(THEIR_FRAMES[clip])
    at = (moment + 0.5) / ours
    # where two are equally near, the later one
    return min(range(theirs), key=lambda other: (round(abs((other + 0.5) / theirs - at), 9), -other))


def spoilt(signals: dict[str, Tensor], rubbish: float) -> dict[str, Tensor]:
    """The same with rubbish behind the end of every clip."""
    feature = signals["feature"].clone()
    for clip, count in enumerate(signals["frames"].tolist()):
        feature[clip, count:] = rubbish
    return {**signals, "feature": feature}
