"""What every net here is made of: log-mel features, an encoder of frames, and a head."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from kdcore_speech.frames import Count, frame_mask


class Recognised(NamedTuple):
    """What a CTC net returns.

    Attributes:
        logits: (N, T, V).
        frames: int64 (N,), how many of T count.
    """

    logits: Tensor
    frames: Tensor


class Tagged(NamedTuple):
    """What a classifier of clips returns.

    Attributes:
        logits: (N, C).
        frames: int64 (N,), how many frames of the encoder count: for losses that read a tap of it.
    """

    logits: Tensor
    frames: Tensor


class Front(Protocol):
    """Waveforms in, frames out."""

    def frames(self, count: Count) -> Count:
        """How many frames so many samples become."""

    def __call__(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S), int64 (N,) -> (N, T, D), int64 (N,); what lies behind a clip's end changes nothing."""


class Encoder(Protocol):
    """Frames in, fewer and wider frames out."""

    width: int

    def frames(self, count: Count) -> Count:
        """How many frames so many frames become."""

    def __call__(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, mels), int64 (N,) -> (N, T', width), int64 (N,); what lies behind ``frames`` changes nothing."""


class Recogniser(nn.Module):
    """A CTC net: waveforms to logits of every frame.

    Its parts are ``front`` (features), ``encoder`` and ``head``.
    """

    def __init__(self, front: Front, encoder: Encoder, *, vocabulary: int) -> None:
        super().__init__()
        self.front = front
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, vocabulary)

    def frames(self, samples: Count) -> Count:
        """How many frames so many samples give."""
        return self.encoder.frames(self.front.frames(samples))

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Recognised:
        hidden, frames = self.encoder(*self.front(audio, audio_lengths))
        return Recognised(self.head(hidden), frames)


class Tagger(nn.Module):
    """A classifier of clips: waveforms to one row of logits, from the mean over all frames that count.

    Its parts are ``front`` (features), ``encoder`` and ``head``.
    """

    def __init__(self, front: Front, encoder: Encoder, *, classes: int) -> None:
        super().__init__()
        self.front = front
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, classes)

    def frames(self, samples: Count) -> Count:
        """How many frames so many samples give."""
        return self.encoder.frames(self.front.frames(samples))

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Tagged:
        hidden, frames = self.encoder(*self.front(audio, audio_lengths))
        return Tagged(self.head(mean_over_time(hidden, frames)), frames)


def mean_over_time(hidden: Tensor, frames: Tensor) -> Tensor:
    """Of the frames that count: (N, T, D) -> (N, D)."""
    mask = frame_mask(frames, hidden.shape[1]).unsqueeze(-1)
    return torch.where(mask, hidden, 0.0).sum(1) / frames.unsqueeze(-1)


def check_sizes(**sizes: int) -> None:
    """Refuse a size that is no number of things.

    Raises:
        ValueError: one is below 1.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: give at least 1")
