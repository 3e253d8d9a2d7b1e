"""Nets that tell voices apart: one vector for a clip, near to those of the same speaker."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdcore_speech.features import LogMel
from kdcore_speech.frames import Count, frame_mask
from kdcore_speech.models.conformer import ConformerEncoder
from kdcore_speech.models.nets import Encoder, Front, check_sizes

FLAT = 1e-5
"""Added to a channel's variance over time: the root of 0 has no gradient."""


class Embedded(NamedTuple):
    """What a net for speakers returns.

    Attributes:
        embedding: (N, D).
        frames: int64 (N,), how many frames of the encoder count: for losses that read a tap of it.
    """

    embedding: Tensor
    frames: Tensor


class SpeakerNet(nn.Module):
    """Waveforms to one vector a clip: mean and deviation of the frames that count, then a linear map.

    Its parts are ``front``, ``encoder`` and ``head``.

    **Paper**: Snyder et al., X-Vectors, ICASSP 2018, for statistics pooling.
    """

    def __init__(self, front: Front, encoder: Encoder, *, size: int) -> None:
        super().__init__()
        check_sizes(size=size)
        self.front = front
        self.encoder = encoder
        self.head = nn.Linear(2 * encoder.width, size)

    def frames(self, samples: Count) -> Count:
        """How many frames so many samples give."""
        return self.encoder.frames(self.front.frames(samples))

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Embedded:
        hidden, frames = self.encoder(*self.front(audio, audio_lengths))
        return Embedded(self.head(statistics_over_time(hidden, frames)), frames)


def statistics_over_time(hidden: Tensor, frames: Tensor) -> Tensor:
    """Mean and standard deviation of the frames that count: (N, T, D) -> (N, 2 D)."""
    outside = ~frame_mask(frames, hidden.shape[1]).unsqueeze(-1)
    length = frames.unsqueeze(-1)
    mean = hidden.masked_fill(outside, 0.0).sum(1) / length
    apart = (hidden - mean.unsqueeze(1)).masked_fill(outside, 0.0)
    return torch.cat([mean, (apart.square().sum(1) / length + FLAT).sqrt()], -1)


def conformer_speaker(
    *,
    sample_rate: int,
    size: int = 128,
    width: int = 96,
    depth: int = 4,
    heads: int = 4,
    kernel: int = 15,
    stride: int = 4,
    mels: int = 80,
    dropout: float = 0.1,
) -> SpeakerNet:
    """The net of ``speech.conformer`` with a vector for each clip: `front`, `encoder.stem`, `encoder.blocks.0`, `head`.

    Args:
        sample_rate: of the waveform; filled in from the data.
        size: numbers in an embedding.
        width: channels, a multiple of twice the heads.
        depth: blocks.
        heads: of the attention.
        kernel: frames that a convolution looks at, an odd number.
        stride: frames of features that become one frame of the net.
        mels: bands of the features.
        dropout: share of the channels that training hides.

    Raises:
        ValueError: a size below 1, an even kernel, or a width that the heads do not divide.

    **Paper**: Gulati et al., Conformer, 2020 (arXiv 2005.08100), with the deviations of ``speech.conformer``.
    """
    encoder = ConformerEncoder(
        mels=mels, width=width, depth=depth, heads=heads, kernel=kernel, stride=stride, dropout=dropout
    )
    return SpeakerNet(LogMel(sample_rate=sample_rate, mels=mels), encoder, size=size)
