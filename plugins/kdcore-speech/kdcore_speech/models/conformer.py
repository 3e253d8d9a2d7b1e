"""A conformer: attention for what is far, convolution for what is near."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import glu, scaled_dot_product_attention, silu

from kdcore_speech.features import LogMel
from kdcore_speech.frames import Count, frame_mask
from kdcore_speech.models.conv import Subsample
from kdcore_speech.models.nets import Recogniser, Tagger, check_sizes

WAVELENGTHS = 10000.0
"""Longest wavelength of the rotary positions, in frames over 2 pi: that of Su et al."""


def conformer(
    *,
    sample_rate: int,
    vocabulary: int,
    width: int = 96,
    depth: int = 4,
    heads: int = 4,
    kernel: int = 15,
    stride: int = 4,
    mels: int = 80,
    dropout: float = 0.1,
) -> Recogniser:
    """A CTC net of conformer blocks over log-mel features, 10 ms a frame.

    Args:
        sample_rate: of the waveform; filled in from the data.
        vocabulary: how many labels, the blank included; filled in from the data.
        width: channels, a multiple of twice the heads.
        depth: blocks.
        heads: of the attention.
        kernel: frames that a convolution looks at, an odd number.
        stride: frames of features that become one frame of the net.
        mels: bands of the features.
        dropout: share of the channels that training hides.

    Raises:
        ValueError: a size below 1, an even kernel, or a width that the heads do not divide.

    **Paper**: Gulati et al., Conformer, 2020 (arXiv 2005.08100). **Deviations**: rotary positions (Su et al., 2021,
    arXiv 2104.09864) instead of relative ones; one convolution over time instead of two over time and bands before
    the blocks; LayerNorm instead of BatchNorm in the blocks, so that padding does not count.
    """
    encoder = ConformerEncoder(
        mels=mels, width=width, depth=depth, heads=heads, kernel=kernel, stride=stride, dropout=dropout
    )
    return Recogniser(LogMel(sample_rate=sample_rate, mels=mels), encoder, vocabulary=vocabulary)


def conformer_tagger(
    *,
    sample_rate: int,
    classes: int,
    width: int = 96,
    depth: int = 4,
    heads: int = 4,
    kernel: int = 15,
    stride: int = 4,
    mels: int = 40,
    dropout: float = 0.1,
) -> Tagger:
    """The net of :func:`conformer` with one answer for a whole clip.

    Args:
        sample_rate: of the waveform; filled in from the data.
        classes: how many; filled in from the data.
        width: channels, a multiple of twice the heads.
        depth: blocks.
        heads: of the attention.
        kernel: frames that a convolution looks at, an odd number.
        stride: frames of features that become one frame of the net.
        mels: bands of the features.
        dropout: share of the channels that training hides.

    Raises:
        ValueError: a size below 1, an even kernel, or a width that the heads do not divide.

    **Paper**: Gulati et al., Conformer, 2020 (arXiv 2005.08100), with the deviations of :func:`conformer`.
    """
    encoder = ConformerEncoder(
        mels=mels, width=width, depth=depth, heads=heads, kernel=kernel, stride=stride, dropout=dropout
    )
    return Tagger(LogMel(sample_rate=sample_rate, mels=mels), encoder, classes=classes)


class FeedForward(nn.Sequential):
    """Two layers on each frame, normalised before."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )


class Attention(nn.Module):
    """Every frame looks at every frame that counts; where they are is told by rotation."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        split = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, N, heads, T, D)
        query, key, value = split.unbind(0)
        seen = scaled_dot_product_attention(rotated(query), rotated(key), value, attn_mask=mask[:, None, None, :])
        y: Tensor = self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        return y


class Convolution(nn.Module):
    """A gate, a depthwise convolution over time, a layer."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.gate = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.inner, self.out = nn.LayerNorm(width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        gated = glu(self.gate(self.norm(x))).masked_fill(~mask.unsqueeze(-1), 0.0)
        seen = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        y: Tensor = self.dropout(self.out(silu(self.inner(seen))))
        return y


class Block(nn.Module):
    """Half a feed-forward, attention, convolution, the other half: (N, T, D)."""

    def __init__(self, width: int, heads: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.before, self.after = FeedForward(width, dropout), FeedForward(width, dropout)
        self.attention = Attention(width, heads, dropout)
        self.convolution = Convolution(width, kernel, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + 0.5 * self.before(x)
        x = x + self.attention(x, mask)
        x = x + self.convolution(x, mask)
        y: Tensor = self.norm(x + 0.5 * self.after(x))
        return y


class ConformerEncoder(nn.Module):
    """``stem``, then ``blocks.0`` to ``blocks.{depth-1}``, each (N, T, width)."""

    def __init__(
        self, *, mels: int, width: int, depth: int, heads: int, kernel: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth, heads=heads, kernel=kernel, stride=stride)
        if width % (2 * heads):
            raise ValueError(f"width={width} is no multiple of {2 * heads}, twice the {heads} heads")
        if kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: give an odd number, so that a block looks as far back as ahead")
        self.width = width
        self.stem = Subsample(mels, width, stride)
        self.blocks = nn.ModuleList(Block(width, heads, kernel, dropout) for _ in range(depth))

    def frames(self, count: Count) -> Count:
        return self.stem.frames(count)

    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x, frames = self.stem(features), self.frames(frames)
        mask = frame_mask(frames, x.shape[1])
        for block in self.blocks:
            x = block(x, mask)
        return x, frames


def rotated(x: Tensor) -> Tensor:
    """Pairs of channels turned by an angle that grows with time: (N, heads, T, D), D even."""
    half = x.shape[-1] // 2
    speed = WAVELENGTHS ** -(torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[-2], device=x.device).unsqueeze(1) * speed  # (T, D / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
