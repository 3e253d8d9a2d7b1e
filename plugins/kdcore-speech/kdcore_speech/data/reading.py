"""One audio file to a waveform, or a sentence that says why not."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kdcore.data.bad import BadSampleError
from torch import Tensor

SHORTEST = 0.025
"""Seconds of sound below which there is nothing to hear: one window of the features."""

SLACK = 0.05
"""Seconds that a segment may reach beyond its file: durations in manifests are rounded."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself: frames a second, channels, and seconds of sound."""

    sample_rate: int
    channels: int
    seconds: float


@dataclass(frozen=True)
class Segment:
    """A part of a file.

    Attributes:
        path: the file.
        offset: seconds before it.
        duration: its seconds; ``None`` for all that follows.
    """

    path: Path
    offset: float = 0.0
    duration: float | None = None


def header_of(path: Path) -> Header:
    """Without decoding.

    Raises:
        BadSampleError: the file is missing, empty, or no audio that libsndfile knows.
    """
    import soundfile

    if not path.is_file():
        raise BadSampleError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise BadSampleError(f"{path}: the file is empty")
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: `.raw` wants to know more
        raise BadSampleError(f"{path}: is no audio that can be read ({_reason(error)})") from error
    return Header(info.samplerate, info.channels, info.frames / info.samplerate)


def read(segment: Segment, sample_rate: int) -> Tensor:
    """The waveform float32 (S,) at this rate; of several channels the mean.

    Raises:
        BadSampleError: the file is missing, empty, damaged or too short, ends before the segment, or holds NaN.
    """
    import soundfile

    header = header_of(segment.path)
    seconds = length_of(segment, header)
    start = round(segment.offset * header.sample_rate)
    try:
        sound, _ = soundfile.read(
            segment.path, frames=round(seconds * header.sample_rate), start=start, dtype="float32", always_2d=True
        )
    except (soundfile.SoundFileError, OSError) as error:
        raise BadSampleError(f"{segment.path}: is damaged ({_reason(error)})") from error
    if len(sound) < round(seconds * header.sample_rate):
        raise BadSampleError(
            f"{segment.path}: is damaged: it says {header.seconds:.2f} s and only "
            f"{(start + len(sound)) / header.sample_rate:.2f} s can be decoded"
        )
    if not np.isfinite(sound).all():
        raise BadSampleError(f"{segment.path}: holds NaN or infinity")
    return torch.from_numpy(resampled(sound.mean(1), header.sample_rate, sample_rate))


def length_of(segment: Segment, header: Header) -> float:
    """Seconds of a segment, of which the file's end may cut a little.

    Raises:
        BadSampleError: the file ends before it, or it is too short.
    """
    path, left = segment.path, header.seconds - segment.offset
    wanted = left if segment.duration is None else segment.duration
    if wanted > left + SLACK:
        raise BadSampleError(
            f"{path}: the segment ends at {segment.offset + wanted:.2f} s, the file at {header.seconds:.2f} s"
        )
    seconds = min(wanted, left)
    if seconds < SHORTEST:
        raise BadSampleError(f"{path}: {max(0.0, seconds):.3f} s of sound, and at least {SHORTEST} s are needed")
    return seconds


def resampled(sound: np.ndarray[Any, Any], given: int, wanted: int) -> np.ndarray[Any, Any]:
    """(S,) at another rate, low-pass filtered where it is lower."""
    if given == wanted:
        return np.ascontiguousarray(sound, np.float32)
    from scipy.signal import resample_poly  # half a second to import

    divisor = gcd(given, wanted)
    return np.asarray(resample_poly(sound, wanted // divisor, given // divisor), np.float32)


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
