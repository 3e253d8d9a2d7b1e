"""Nets whose answer is what they hear inside: frames of hidden states, for others to read."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from kdcore_speech.features import LogMel
from kdcore_speech.frames import Count
from kdcore_speech.models.conformer import ConformerEncoder
from kdcore_speech.models.nets import Encoder, Front


class Represented(NamedTuple):
    """What a bare encoder returns.

    Attributes:
        hidden: (N, T, D).
        frames: int64 (N,), how many of T count.
    """

    hidden: Tensor
    frames: Tensor


class BareEncoder(nn.Module):
    """Waveforms to hidden states, no head. Its parts are ``front`` and ``encoder``."""

    def __init__(self, front: Front, encoder: Encoder) -> None:
        super().__init__()
        self.front = front
        self.encoder = encoder

    def frames(self, samples: Count) -> Count:
        """How many frames so many samples give."""
        return self.encoder.frames(self.front.frames(samples))

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Represented:
        return Represented(*self.encoder(*self.front(audio, audio_lengths)))


def conformer_encoder(
    *,
    sample_rate: int,
    width: int = 96,
    depth: int = 4,
    heads: int = 4,
    kernel: int = 15,
    stride: int = 4,
    mels: int = 80,
    dropout: float = 0.1,
) -> BareEncoder:
    """The net of ``speech.conformer`` without its head: `front`, `encoder.stem`, `encoder.blocks.0` ...

    With ``init: {student: {from: teacher, map: {front: front, encoder: encoder}}}`` it begins as a trained recogniser.

    Args:
        sample_rate: of the waveform; filled in from the data.
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
    return BareEncoder(LogMel(sample_rate=sample_rate, mels=mels), encoder)
