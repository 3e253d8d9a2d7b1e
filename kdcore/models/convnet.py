"""A small image classifier, wide or narrow: a teacher and a student of the same kind."""

from __future__ import annotations

from math import gcd
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["batch", "group", "none"]


class ConvNet(nn.Module):
    """``stem``, ``blocks.0`` to ``blocks.{depth-1}``, global average pooling, ``head``.

    Each block halves height and width (a side of 1 stays 1) and doubles the channels.

    Shape: (N, channels, H, W) -> logits (N, classes), in train and eval mode.

    Args:
        classes: number of classes.
        channels: of the image.
        width: channels of the stem; block ``i`` gives ``width * 2**(i + 1)``.
        depth: number of blocks.
        norm: ``batch``; ``group`` (at most 8 groups) where a sample must not see its batch; or ``none``.

    Raises:
        ValueError: ``width`` or ``depth`` below 1.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        width: int = 16,
        depth: int = 3,
        norm: Literal["batch", "group", "none"] = "batch",
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"width={width} and depth={depth}: give at least 1 of each")
        self.stem = _convolution(channels, width, norm)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    _convolution(width * 2**level, width * 2 ** (level + 1), norm),
                    nn.MaxPool2d(2, ceil_mode=True),  # ceil: a side of 1 stays 1
                )
                for level in range(depth)
            )
        )
        self.head = nn.Linear(width * 2**depth, classes)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.blocks(self.stem(image))  # (N, width * 2**depth, H', W')
        logits: Tensor = self.head(F.adaptive_avg_pool2d(maps, 1).flatten(1))
        return logits


def _convolution(channels: int, width: int, norm: Norm) -> nn.Sequential:
    """3x3 convolution, norm, ReLU; a bias only where no norm would take it away."""
    norms: dict[Norm, nn.Module] = {
        "batch": nn.BatchNorm2d(width),
        "group": nn.GroupNorm(gcd(8, width), width),
        "none": nn.Identity(),
    }
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=norm == "none"), norms[norm], nn.ReLU(inplace=True)
    )
