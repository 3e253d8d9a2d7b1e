"""What set detectors say about three images of 32x48, the same each time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SIZE = (32, 48)
CLASSES, LAYERS, QUERIES = 3, 2, 6


def draw(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def said(
    seed: int, *, classes: int = CLASSES, layers: int = LAYERS, queries: int = QUERIES, n: int = 3
) -> dict[str, Tensor]:
    """Signals of a set detector: boxes that lie in the image, none of them empty."""
    generator = torch.Generator().manual_seed(seed)
    middle, side = draw(seed + 10, n, layers, queries, 2), 0.1 + 0.3 * draw(seed + 20, n, layers, queries, 2)
    middle = 0.25 + 0.5 * middle
    scale = torch.tensor([SIZE[1], SIZE[0]] * 2)
    boxes = torch.cat([middle - side / 2, middle + side / 2], -1) * scale
    logits = 2 * torch.randn(n, layers, queries, classes, generator=generator)
    last = {"logits": logits[:, -1], "boxes": boxes[:, -1]}
    return {**last, "layer_logits": logits, "layer_boxes": boxes}


def scene() -> dict[str, Any]:
    """Three objects, none, and one."""
    nothing = [0.0, 0.0, 0.0, 0.0]
    boxes = [
        [[1.0, 2.0, 30.0, 30.0], [9.0, 9.0, 15.0, 20.0], [20.0, 3.0, 44.0, 17.0]],
        [nothing, nothing, nothing],
        [[30.0, 5.0, 47.0, 17.0], nothing, nothing],
    ]
    return {
        "id": torch.arange(3),
        "image": torch.zeros(3, 3, *SIZE),
        "boxes": torch.tensor(boxes),
        "box_labels": torch.tensor([[1, 0, 2], [-100, -100, -100], [2, -100, -100]]),
    }


def with_last_unknown(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "boxes_known": torch.tensor([True, True, False])}


def with_ignored(batch: dict[str, Any]) -> dict[str, Any]:
    """The large box of the first image is neither to be found nor to be missed."""
    ignored = torch.zeros(3, 3, dtype=torch.bool)
    ignored[0, 0] = True
    return {**batch, "box_ignore": ignored}
