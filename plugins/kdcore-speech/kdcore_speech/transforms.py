"""SpecAugment on waveforms, so that it is pure in (sample, seed) and any front end can see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdcore_speech.features import hertz_to_mel, mel_to_hertz


def spec_augment(
    *,
    sample_rate: int,
    bands: int = 2,
    band_width: float = 0.2,
    gaps: int = 2,
    gap_seconds: float = 0.1,
    gap_share: float = 0.2,
) -> Callable[[dict[str, Any], int], dict[str, Any]]:
    """Takes bands of frequency, and stretches of time, out of a clip.

    Meant for the student's view (``data.views``): its teacher hears the clip as it is.

    Args:
        sample_rate: of the waveform; as in the data's slot.
        bands: how many bands of frequency are taken out.
        band_width: width of a band at most, as a share of the mel scale up to half the sample rate.
        gaps: how many stretches of time are silenced.
        gap_seconds: length of a stretch at most.
        gap_share: and at most this share of the clip.

    Raises:
        ValueError: a number below 0, or a share above 1.

    **Paper**: Park et al., SpecAugment, 2019 (arXiv 1904.08779), section 2: frequency and time masking.
    **Deviations**: the waveform is changed, by a filter over the whole clip, instead of features, and what is masked
    is silent, not the mean; no time warping.
    """
    shares = {"band_width": band_width, "gap_share": gap_share}
    wrong = next((name for name, value in shares.items() if not 0 <= value <= 1), None)
    if wrong is not None:
        raise ValueError(f"{wrong}={shares[wrong]}: give a share from 0 to 1")
    for name, value in (("bands", bands), ("gaps", gaps), ("gap_seconds", gap_seconds)):
        if value < 0:
            raise ValueError(f"{name}={value}: give 0 or more")

    def augment(sample: dict[str, Any], seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        audio = without_bands(sample["audio"], sample_rate, bands, band_width, generator)
        longest = min(gap_seconds * sample_rate, gap_share * len(audio))
        return {**sample, "audio": with_gaps(audio, gaps, longest, generator)}

    return augment


def without_bands(audio: Tensor, sample_rate: int, bands: int, width: float, generator: torch.Generator) -> Tensor:
    """(S,) without some bands: as wide as drawn from [0, width) of the mel scale, wherever they fit."""
    if not bands:
        return audio
    spectrum = torch.fft.rfft(audio)
    top = hertz_to_mel(torch.tensor(sample_rate / 2))
    size = width * torch.rand(bands, generator=generator)
    low = torch.rand(bands, generator=generator) * (1 - size)
    hertz = torch.linspace(0, sample_rate / 2, len(spectrum)).unsqueeze(1)
    out = ((hertz >= mel_to_hertz(low * top)) & (hertz < mel_to_hertz((low + size) * top))).any(1)
    filtered: Tensor = torch.fft.irfft(spectrum.masked_fill(out, 0), n=len(audio))
    return filtered


def with_gaps(audio: Tensor, gaps: int, longest: float, generator: torch.Generator) -> Tensor:
    """(S,) silenced in some stretches, each of a length drawn from [0, longest), wherever it fits."""
    size = (longest * torch.rand(gaps, generator=generator)).long()
    start = (torch.rand(gaps, generator=generator) * (len(audio) - size)).long()
    time = torch.arange(len(audio)).unsqueeze(1)
    return audio.masked_fill(((time >= start) & (time < start + size)).any(1), 0.0)
