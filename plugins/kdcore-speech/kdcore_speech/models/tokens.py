"""A transformer that reads a clip into two tokens: one for the label, one for what a teacher says."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdcore_speech.features import LogMel
from kdcore_speech.frames import Count, frame_mask
from kdcore_speech.models.conformer import Attention, FeedForward
from kdcore_speech.models.conv import Subsample
from kdcore_speech.models.nets import check_sizes


class Tokens(NamedTuple):
    """What a net with two tokens says.

    Attributes:
        logits: (N, C), of the class token.
        distillation: (N, C), of the distillation token.
        embedding: (N, 2 D), the two tokens side by side.
        frames: int64 (N,), how many frames of the encoder count.
    """

    logits: Tensor
    distillation: Tensor
    embedding: Tensor
    frames: Tensor


def token_tagger(
    *,
    sample_rate: int,
    classes: int,
    width: int = 64,
    depth: int = 3,
    heads: int = 4,
    vectors: int = 16,
    stride: int = 4,
    mels: int = 40,
    dropout: float = 0.1,
) -> TokenTagger:
    """A transformer over log-mel features with a class token and a distillation token.

    ``cross_entropy`` teaches the class token the true label. A teacher teaches the other by ``kl`` with
    ``read: {student.logits: student.distillation}``; see ``recipes/class_token.yaml``. The answer is the class token's.
    For the task ``speech.speaker`` both together are the clip's embedding.

    Args:
        sample_rate: of the waveform; filled in from the data.
        classes: how many; filled in from the data.
        width: channels, a multiple of twice the heads.
        depth: blocks.
        heads: of the attention.
        vectors: how many vectors the class token is drawn from in training, one for each clip; their mean is the token
            otherwise. 1 for a token that is the same throughout.
        stride: frames of features, of 10 ms, that become one frame of the net.
        mels: bands of the features.
        dropout: share of the channels that training hides.

    Raises:
        ValueError: a size below 1, or a width that the heads do not divide.

    **Paper**: Mingote et al., Class Token and Knowledge Distillation for Multi-head Self-Attention Speaker Verification
    Systems, 2021 (arXiv 2111.03842).
    **Deviations**: rotary positions; feed-forward layers where the paper has memory layers; which vector stands for the
    class token outside of training, how many there are, and what is the embedding, are ours.
    """
    encoder = TokenEncoder(
        mels=mels, width=width, depth=depth, heads=heads, vectors=vectors, stride=stride, dropout=dropout
    )
    return TokenTagger(LogMel(sample_rate=sample_rate, mels=mels), encoder, classes=classes)


class Block(nn.Module):
    """Attention, then a feed-forward layer: (N, T, D)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(x, mask)
        y: Tensor = x + self.feed_forward(x)
        return y


class TokenEncoder(nn.Module):
    """``stem``, then ``blocks.0`` to ``blocks.{depth-1}``: (N, 2 + T, width) with the two tokens before the frames."""

    def __init__(
        self, *, mels: int, width: int, depth: int, heads: int, vectors: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth, heads=heads, vectors=vectors, stride=stride)
        if width % (2 * heads):
            raise ValueError(f"width={width} is no multiple of {2 * heads}, twice the {heads} heads")
        self.width = width
        self.stem = Subsample(mels, width, stride)
        self.class_token = nn.Parameter(0.02 * torch.randn(vectors, width))
        self.distillation_token = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def frames(self, count: Count) -> Count:
        return self.stem.frames(count)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """The two tokens behind all blocks: (N, 2, width)."""
        x = self.stem(features)
        tokens = torch.stack([self._class_tokens(len(x)), self.distillation_token.expand(len(x), -1)], 1)
        x = torch.cat([tokens.to(x.dtype), x], 1)
        mask = frame_mask(self.frames(frames) + 2, x.shape[1])
        for block in self.blocks:
            x = block(x, mask)
        said: Tensor = self.norm(x[:, :2])
        return said

    def _class_tokens(self, n: int) -> Tensor:
        if not self.training:
            return self.class_token.mean(0).expand(n, -1)
        drawn = torch.randint(len(self.class_token), (n,), device=self.class_token.device)
        return self.class_token[drawn]


class TokenTagger(nn.Module):
    """Waveforms to what the two tokens say.

    Its parts are ``front`` (features), ``encoder``, ``head`` and ``distillation_head``.
    """

    def __init__(self, front: LogMel, encoder: TokenEncoder, *, classes: int) -> None:
        super().__init__()
        self.front = front
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, classes)
        self.distillation_head = nn.Linear(encoder.width, classes)

    def frames(self, samples: Count) -> Count:
        """How many frames so many samples give, the tokens not counted."""
        return self.encoder.frames(self.front.frames(samples))

    def forward(self, audio: Tensor, audio_lengths: Tensor) -> Tokens:
        tokens = self.encoder(*self.front(audio, audio_lengths))
        ours, distilled = tokens.unbind(1)
        return Tokens(self.head(ours), self.distillation_head(distilled), tokens.flatten(1), self.frames(audio_lengths))
