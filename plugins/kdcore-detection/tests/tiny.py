"""Tiny detectors and batches, the same each time."""

from __future__ import annotations

from typing import Any

import torch
from kdcore.signals import IGNORE, Batch
from torch import Tensor

from kdcore_detection.models.dense import Dense
from kdcore_detection.models.fcos import FCOS
from kdcore_detection.models.gfl import GFL
from kdcore_detection.models.retinanet import RetinaNet
from kdcore_detection.task import Boxes

CLASSES = 3
HEIGHT, WIDTH = 64, 96
SLIM = {"channels": [8, 8, 16, 16], "stem_width": 8, "layers": [1, 1, 1, 1]}
"""Options of timm's ResNets."""

KINDS: dict[str, type[Dense]] = {"fcos": FCOS, "retinanet": RetinaNet, "gfl": GFL}


def detector(kind: str = "fcos", **given: Any) -> Any:
    """A dense detector of some 30 thousand weights and three levels: 126 points in an image of 64x96.

    Its last layers are louder than they start, so that scores and boxes differ.
    """
    usual: dict[str, Any] = {
        "classes": CLASSES, "backbone": "timm/resnet18", "levels": [3, 4, 5], "width": 16, "towers": 1, "options": SLIM,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = KINDS[kind](**{**usual, **given})
        with torch.no_grad():
            for name, weight in net.head.named_parameters():
                if ".conv." not in name and name.endswith("weight"):
                    weight.normal_(std=0.3)
    return net


def task(**facts: int) -> Boxes:
    """As the builder completes it."""
    made = Boxes(classes=CLASSES)
    made.facts |= facts or {"channels": 3, "image_height": HEIGHT, "image_width": WIDTH}
    return made


def batch(n: int = 3) -> Batch:
    """Images of 64x96 with two boxes, one and none in turn; the third has an ignored box where there is no other."""
    generator = torch.Generator().manual_seed(1)
    boxes = torch.tensor([[10.0, 12.0, 42.5, 50.0], [30.0, 8.0, 90.0, 60.0], [5.0, 5.0, 20.0, 21.5]])
    rows = [(boxes[:2], [0, 2], [False, False]), (boxes[2:], [1], [False]), (boxes[:1], [0], [True])]
    chosen = [rows[i % 3] for i in range(n)]
    return {
        "image": torch.rand(n, 3, HEIGHT, WIDTH, generator=generator),
        "boxes": torch.stack([padded(each, 2, 0.0) for each, _, _ in chosen]),
        "box_labels": torch.stack([padded(torch.tensor(labels), 2, IGNORE) for _, labels, _ in chosen]),
        "box_ignore": torch.stack([padded(torch.tensor(ignored), 2, False) for _, _, ignored in chosen]),
        "id": torch.arange(n),
    }


def padded(x: Tensor, length: int, value: float | bool) -> Tensor:
    """Longer along the first axis."""
    filled = torch.full((length, *x.shape[1:]), value, dtype=x.dtype)
    filled[: len(x)] = x
    return filled
