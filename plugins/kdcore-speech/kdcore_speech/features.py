"""Log-mel features in torch: differentiable, batched, on any device, and exportable (no complex numbers, no FFT)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from kdcore_speech.frames import Count, ceil_div, frame_mask

RANGE = 8.0
"""How many powers of ten below its loudest value a sample's features reach; what is softer counts as that."""

FLOOR = 1e-10
"""Least energy of a band, whose logarithm would have no end."""

LINEAR_BELOW, MELS_PER_HERTZ, MEL_STEP = 1000.0, 3.0 / 200.0, math.log(6.4) / 27.0
"""Slaney's mel scale: linear up to 1000 Hz (15 mels), then 27 mels for each factor of 6.4."""


class LogMel(nn.Module):
    """``max(log10 mel, max - 8) / 4 + 1`` of each sample: the features that Whisper is given.

    A frame is a window around every ``hop`` samples, of Hann's shape; its spectrum is a convolution. Behind its end a
    sample is silent; before its beginning it is mirrored, as far as half a window. Frames behind the end are 0.
    Everything is computed in float32, whatever surrounds it.

    Shape: (N, S), int64 (N,) -> (N, T, mels), int64 (N,), where T is ``frames(S)``.

    Args:
        sample_rate: of the waveform in Hz.
        mels: bands, equally wide on Slaney's mel scale from 0 Hz to half the sample rate, of equal area.
        window: seconds; an even number of samples results.
        hop: seconds from one frame to the next.

    Raises:
        ValueError: a value is not above 0, or so many bands that some hold no frequency.

    **Paper**: Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022 (arXiv 2212.04356),
    section 2.2. **Deviation**: theirs always hears 30 seconds, which makes no difference to the frames that count, and
    mirrors a sample's end where it fills those 30 seconds.
    """

    basis: Tensor
    bands: Tensor

    def __init__(self, *, sample_rate: int, mels: int = 40, window: float = 0.025, hop: float = 0.010) -> None:
        super().__init__()
        self.reach = round(sample_rate * window / 2)
        self.hop = round(sample_rate * hop)
        self.mels = mels
        for name, value in (("sample_rate", sample_rate), ("mels", mels), ("window", self.reach), ("hop", self.hop)):
            if not value > 0:
                raise ValueError(f"{name} is too small: half a window is {self.reach} samples, a hop {self.hop}")
        bands = mel_bands(mels, self.reach + 1, sample_rate)
        empty = int((bands.sum(0) == 0).sum())
        if empty:
            raise ValueError(
                f"mels={mels}: {empty} of these bands hold no frequency of a window of {2 * self.reach} samples at "
                f"{sample_rate} Hz: set fewer `mels`, or a longer `window`"
            )
        self.register_buffer("basis", fourier_basis(2 * self.reach), persistent=False)
        self.register_buffer("bands", bands, persistent=False)

    def frames(self, samples: Count) -> Count:
        """How many frames so many samples give."""
        return ceil_div(samples, self.hop)

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(audio.device.type, enabled=False):
            return self._features(audio.float(), audio_lengths)

    def _features(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        # mirrored as far as the clip reaches, and so much silence that there are ceil(S / hop) whole windows: no step
        # asks how long the clip is, so that exported nets take any length
        ahead = torch.arange(self.reach, 0, -1, device=audio.device).clamp(max=audio.shape[1] - 1)
        padded = torch.cat([audio.index_select(1, ahead), pad(audio, (0, self.reach - 1))], 1)
        spectrum = conv1d(padded.unsqueeze(1), self.basis.float(), stride=self.hop)  # (N, 2 frequencies, T)
        real, imaginary = spectrum.square().chunk(2, 1)
        power = real + imaginary
        energy = (power.transpose(1, 2) @ self.bands.float()).clamp(min=FLOOR).log10()
        frames = self.frames(audio_lengths)
        mask = frame_mask(frames, energy.shape[1]).unsqueeze(-1)
        loudest = energy.masked_fill(~mask, -torch.inf).amax((1, 2), keepdim=True)
        features = (torch.maximum(energy, loudest - RANGE) + 4.0) / 4.0
        return features.masked_fill(~mask, 0.0), frames


def fourier_basis(window: int) -> Tensor:
    """Cosines, then sines, of every frequency, under Hann's window: (2 (window / 2 + 1), 1, window), to convolve."""
    time, frequency = torch.arange(window), torch.arange(window // 2 + 1)
    # the product is taken modulo the window, so that large angles lose no digits
    angle = 2 * math.pi * (frequency.unsqueeze(1) * time % window).double() / window
    hann = torch.hann_window(window, dtype=torch.float64)
    return (torch.cat([angle.cos(), angle.sin()]) * hann).float().unsqueeze(1)


def mel_bands(mels: int, frequencies: int, sample_rate: int) -> Tensor:
    """What each frequency, from 0 to half the sample rate, adds to each band: triangles of area 1, (frequencies, mels).

    **Source**: Slaney, Auditory Toolbox, technical report 1998-010, Interval Research, 1998.
    """
    hertz = torch.linspace(0, sample_rate / 2, frequencies, dtype=torch.float64).unsqueeze(1)
    top = hertz_to_mel(torch.tensor(sample_rate / 2, dtype=torch.float64))
    corners = mel_to_hertz(torch.linspace(0, 1, mels + 2, dtype=torch.float64) * top)
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (hertz - low) / (centre - low), (high - hertz) / (high - centre)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)).float()


def hertz_to_mel(hertz: Tensor) -> Tensor:
    """Slaney's scale."""
    above = LINEAR_BELOW * MELS_PER_HERTZ + (hertz.clamp(min=LINEAR_BELOW) / LINEAR_BELOW).log() / MEL_STEP
    return torch.where(hertz < LINEAR_BELOW, hertz * MELS_PER_HERTZ, above)


def mel_to_hertz(mel: Tensor) -> Tensor:
    """The inverse of :func:`hertz_to_mel`."""
    knee = LINEAR_BELOW * MELS_PER_HERTZ
    return torch.where(mel < knee, mel / MELS_PER_HERTZ, LINEAR_BELOW * ((mel - knee) * MEL_STEP).exp())
