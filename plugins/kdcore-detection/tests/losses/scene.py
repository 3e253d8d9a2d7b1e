"""Maps and boxes that the tests of the distillers share, and the contract of a loss's totals."""

from __future__ import annotations

from typing import Any

import torch
from kdcore.losses.base import Loss, Total
from torch import Tensor, nn

HEIGHT, WIDTH = 32, 48
"""Of the images; maps have a cell for each 8 pixels."""


def feature_map(seed: int, channels: int = 4) -> Tensor:
    """(N, C, H, W) = (3, channels, 4, 6)."""
    return 2 * torch.randn(3, channels, 4, 6, generator=torch.Generator().manual_seed(seed))


def boxes_batch() -> dict[str, Tensor]:
    """A large and a small box that overlap; none; one beyond the edge and one that is to be ignored."""
    nothing = [0.0, 0.0, 0.0, 0.0]
    boxes = [
        [[1.0, 2.0, 30.0, 30.0], [9.0, 9.0, 15.0, 20.0], nothing],
        [nothing, nothing, nothing],
        [[30.0, 5.0, 50.0, 17.0], nothing, [0.0, 0.0, 16.0, 16.0]],
    ]
    return {
        "id": torch.arange(3),
        "image": torch.zeros(3, 3, HEIGHT, WIDTH),
        "boxes": torch.tensor(boxes),
        "box_labels": torch.tensor([[1, 0, -100], [-100, -100, -100], [2, -100, 1]]),
        "box_ignore": torch.tensor([[False] * 3, [False] * 3, [False, False, True]]),
    }


def set_up(loss: Loss, student: dict[str, Tensor], teacher: dict[str, Tensor], /, **models: nn.Module) -> Any:
    loss.setup({"student": student, "teacher": teacher}, {}, models.__getitem__)
    return loss


def totals(loss: Loss, student: Any, teacher: Any, batch: dict[str, Any] | None = None) -> dict[str, Total]:
    """By name, an only one as "", with the contract of each checked; maps are called ``feature``."""
    student, teacher = ({loss.signal: x} if isinstance(x, Tensor) else x for x in (student, teacher))
    found = loss(student, teacher, batch or {})
    every = {"": found} if isinstance(found, Total) else found
    for total in every.values():
        assert (total.sum.dtype, total.count.dtype) == (torch.float32, torch.int64)
        assert total.sum.shape == total.count.shape == ()
    return every
