"""The head of a dense detector: two branches, each a tower of convolutions and what it gives at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

BranchName = Literal["class", "box"]
BRANCHES: dict[BranchName, str] = {"class": "classification_head", "box": "regression_head"}

PRIOR = 0.01
"""The probability of every class before training (arXiv 1708.02002, section 4.1)."""


class Branch(nn.Module):
    """``conv``, the tower of blocks over a map, and a 3x3 convolution of its own for each output.

    Args:
        width: channels of the maps.
        blocks: the tower; ``conv`` is all their modules in a row.
        outputs: name -> channels.
    """

    def __init__(self, width: int, blocks: Sequence[Sequence[nn.Module]], outputs: Mapping[str, int]) -> None:
        super().__init__()
        self.conv = nn.Sequential(*(module for block in blocks for module in block))
        for name, channels in outputs.items():
            self.add_module(name, nn.Conv2d(width, channels, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def laid_out(self, output: str, towers: Sequence[Tensor], size: int) -> Tensor:
        """An output over the end of the tower of every level: (N, width, h, w) each -> (N, A, size)."""
        last = self.get_submodule(output)
        # not len(): an export would take the number of images for a constant
        return torch.cat([last(one).permute(0, 2, 3, 1).reshape(one.shape[0], -1, size) for one in towers], 1)


class Head(nn.Module):
    """``classification_head`` and ``regression_head``, with the names of torchvision's."""

    def __init__(self, classification: Branch, regression: Branch) -> None:
        super().__init__()
        self.classification_head, self.regression_head = classification, regression
        nn.init.constant_(classification.cls_logits.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type, union-attr]


def block_of(width: int) -> list[nn.Module]:
    """Convolution, GroupNorm with 8 channels a group, ReLU: not in place, so that each can be tapped."""
    return [nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(width // 8, width), nn.ReLU()]


def check_head(classes: int, width: int, towers: int) -> None:
    """Refuse a head that cannot be.

    Raises:
        ValueError: no class, a width that is no multiple of 8, or a negative number of convolutions.
    """
    if classes < 1:
        raise ValueError(f"classes={classes}: there must be at least one to find")
    if width < 8 or width % 8:
        raise ValueError(f"width={width} is no multiple of 8, the channels of a group")
    if towers < 0:
        raise ValueError(f"towers={towers} is below 0")
