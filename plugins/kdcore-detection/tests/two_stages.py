"""A Faster R-CNN of some 100 thousand weights, and what it is shown."""

from __future__ import annotations

from typing import Any

import torch
from kdcore.signals import IGNORE, Batch
from tiny import CLASSES, HEIGHT, SLIM, WIDTH
from torch import Tensor

from kdcore_detection.models.faster_rcnn import FasterRCNN


def two_stages(**given: Any) -> FasterRCNN:
    """Its last layers are louder than they start, so that scores and boxes differ."""
    usual: dict[str, Any] = {
        "classes": CLASSES, "backbone": "timm/resnet18", "width": 8, "head_width": 16, "proposals": 20, "size": 4.0,
        "options": SLIM,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = FasterRCNN(**{**usual, **given})
        with torch.no_grad():
            for part in (net.rpn, net.roi_heads["box_predictor"]):
                for weight in part.parameters():
                    weight.normal_(std=0.3)
    return net


def opinionated(net: FasterRCNN, image: Tensor) -> FasterRCNN:
    """The same net, made to tell the boxes of an image apart."""
    predictor: Any = net.roi_heads["box_predictor"]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        features = net(image)["features"].flatten(0, 1)
        scale = 3.0 / features.std(0).clamp(min=1e-3)
        predictor.cls_score.weight.normal_(std=0.5).mul_(scale)
        predictor.cls_score.bias.copy_(-predictor.cls_score.weight @ features.mean(0))
    return net


def objects() -> Batch:
    """Two objects, one, and none."""
    boxes = torch.tensor(
        [
            [[10.0, 12.0, 42.5, 50.0], [30.0, 8.0, 90.0, 60.0]],
            [[5.0, 5.0, 20.0, 21.5], [0.0] * 4],
            [[0.0] * 4, [0.0] * 4],
        ]
    )
    return {
        "image": torch.rand(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)),
        "boxes": boxes,
        "box_labels": torch.tensor([[0, 2], [1, IGNORE], [IGNORE, IGNORE]]),
        "id": torch.arange(3),
    }
