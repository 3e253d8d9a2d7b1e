"""A convolutional net: cheap, local, and good enough for words."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from kdcore_speech.features import LogMel
from kdcore_speech.frames import Count, ceil_div, frame_mask
from kdcore_speech.models.nets import Recogniser, Tagger, check_sizes

EXPANSION = 2
"""How many times wider a block is inside."""


def conv(
    *,
    sample_rate: int,
    vocabulary: int,
    width: int = 64,
    depth: int = 4,
    kernel: int = 9,
    stride: int = 2,
    mels: int = 40,
    dropout: float = 0.0,
) -> Recogniser:
    """A CTC net of depthwise convolutions over log-mel features, 10 ms a frame.

    Args:
        sample_rate: of the waveform; filled in from the data.
        vocabulary: how many labels, the blank included; filled in from the data.
        width: channels.
        depth: blocks.
        kernel: frames that a block looks at, an odd number.
        stride: frames of features that become one frame of the net.
        mels: bands of the features.
        dropout: share of the channels inside a block that training hides.

    Raises:
        ValueError: a size below 1, or an even kernel.
    """
    encoder = ConvEncoder(mels=mels, width=width, depth=depth, kernel=kernel, stride=stride, dropout=dropout)
    return Recogniser(LogMel(sample_rate=sample_rate, mels=mels), encoder, vocabulary=vocabulary)


def conv_tagger(
    *,
    sample_rate: int,
    classes: int,
    width: int = 64,
    depth: int = 4,
    kernel: int = 9,
    stride: int = 2,
    mels: int = 40,
    dropout: float = 0.0,
) -> Tagger:
    """The net of :func:`conv` with one answer for a whole clip.

    Args:
        sample_rate: of the waveform; filled in from the data.
        classes: how many; filled in from the data.
        width: channels.
        depth: blocks.
        kernel: frames that a block looks at, an odd number.
        stride: frames of features that become one frame of the net.
        mels: bands of the features.
        dropout: share of the channels inside a block that training hides.

    Raises:
        ValueError: a size below 1, or an even kernel.
    """
    encoder = ConvEncoder(mels=mels, width=width, depth=depth, kernel=kernel, stride=stride, dropout=dropout)
    return Tagger(LogMel(sample_rate=sample_rate, mels=mels), encoder, classes=classes)


class Subsample(nn.Module):
    """A convolution over time that makes one frame of ``stride``: (N, T, in) -> (N, ceil(T / stride), out)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        reach = 2 * stride + 1  # a neighbour on either side
        self.conv = nn.Conv1d(channels, width, reach, stride=stride, padding=stride)
        self.norm = nn.LayerNorm(width)

    def frames(self, count: Count) -> Count:
        return ceil_div(count, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2))
        return y


class Block(nn.Module):
    """A depthwise convolution over time, then two layers on each frame, beside a way around them: (N, T, D)."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, EXPANSION * width), nn.Linear(EXPANSION * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        seen = self.depthwise((x * mask).transpose(1, 2)).transpose(1, 2)
        y: Tensor = self.down(self.dropout(gelu(self.up(self.norm(seen)))))
        return x + y


class ConvEncoder(nn.Module):
    """``stem``, then ``blocks.0`` to ``blocks.{depth-1}``, each (N, T, width), then ``norm``."""

    def __init__(self, *, mels: int, width: int, depth: int, kernel: int, stride: int, dropout: float) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth, kernel=kernel, stride=stride)
        if kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: give an odd number, so that a block looks as far back as ahead")
        self.width = width
        self.stem = Subsample(mels, width, stride)
        self.blocks = nn.ModuleList(Block(width, kernel, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def frames(self, count: Count) -> Count:
        return self.stem.frames(count)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x, frames = self.stem(features), self.frames(frames)
        mask = frame_mask(frames, x.shape[1]).unsqueeze(-1).to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x), frames
