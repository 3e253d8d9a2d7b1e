"""What the tests of the dense detectors' losses share."""

from __future__ import annotations

import math
from typing import Any

import torch
from kdcore.signals import Batch, Signals
from tiny import batch, detector
from torch import Tensor

Box = list[float]


def outputs(kind: str, n: int = 3, **given: Any) -> tuple[Signals, Batch]:
    """Signals of a tiny detector, and the batch they are of: two boxes, one, and an ignored one in turn."""
    net, made = detector(kind).eval(), batch(n)
    made |= given
    with torch.no_grad():
        signals = net(made["image"])
        signals["assigned"] = net.assign(signals, made)
    return signals, made


def without(signals: Signals, made: Batch, *, boxes: bool) -> Signals:
    """The same signals with nothing to find, or with nothing known."""
    empty = torch.full_like(signals["assigned"], -1 if boxes else -2)
    return {**signals, "assigned": empty}


def naive_iou(a: Box, b: Box) -> float:
    overlap = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return overlap / (naive_area(a) + naive_area(b) - overlap)


def naive_giou(a: Box, b: Box) -> float:
    overlap = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = naive_area(a) + naive_area(b) - overlap
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return overlap / union - (hull - union) / hull


def naive_area(a: Box) -> float:
    return max(0.0, a[2] - a[0]) * max(0.0, a[3] - a[1])


def naive_sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive_focal(x: float, is_class: bool, alpha: float = 0.25, gamma: float = 2.0) -> float:
    p = naive_sigmoid(x) if is_class else 1 - naive_sigmoid(x)
    return -(alpha if is_class else 1 - alpha) * (1 - p) ** gamma * math.log(p)


def targets(made: Batch) -> list[dict[str, Tensor]]:
    """As torchvision takes them, without padding."""
    real = made["box_labels"] >= 0
    return [
        {"boxes": boxes[each], "labels": labels[each]}
        for boxes, labels, each in zip(made["boxes"], made["box_labels"], real, strict=True)
    ]
