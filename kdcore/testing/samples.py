"""Small seeded signals, batches and nets for every domain, to try losses and tasks on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor, nn

from kdcore.signals import IGNORE, Batch, Signals

CLASSES = 5
"""Of every sample; no other size is 5, so that a mistaken axis shows."""
WIDTH = 6
"""Features, or frequency bands, of every sample."""


class Sample(TypedDict):
    """What :func:`kdcore.testing.check_loss` takes: ``check_loss(KL, **samples.tokens())``."""

    student: Signals
    teacher: Signals
    batch: Batch
    class_axis: int


def vectors(n: int = 4, *, signal: str = "logits", channels: tuple[int, int] = (CLASSES, CLASSES)) -> Sample:
    """One vector a sample: (N, C).

    Args:
        n: how many samples.
        signal: what student and teacher call it.
        channels: of the student and of the teacher.
    """
    batch = {"id": torch.arange(n), "image": _normal(0, n, WIDTH), "labels": _labels(n)}
    return _sample(signal, (n,), channels, -1, batch)


def maps(
    n: int = 4,
    *,
    signal: str = "logits",
    channels: tuple[int, int] = (CLASSES, CLASSES),
    size: tuple[int, int] = (6, 8),
) -> Sample:
    """A map a sample: (N, C, H, W), with classes at axis 1, and a mask that leaves out a third and one sample."""
    height, width = size
    labels, mask = _labels(n, height, width), _draw(3, n, height, width) > 1 / 3
    mask[-1] = False
    batch = {"id": torch.arange(n), "image": _normal(0, n, 3, height, width), "labels": labels, "mask": mask}
    return _sample(signal, (n, height, width), channels, 1, batch)


def tokens(
    n: int = 4, *, length: int = 7, signal: str = "logits", channels: tuple[int, int] = (CLASSES, CLASSES)
) -> Sample:
    """A sequence of tokens: (N, T, C), of different lengths, which the mask tells."""
    labels, mask = _labels(n, length), _lengths(n, length)
    ids = torch.randint(CLASSES, (n, length), generator=_generator(0))
    return _sample(signal, (n, length), channels, -1, _padded(n, {"input_ids": ids}, labels, mask))


def frames(
    n: int = 4, *, length: int = 9, signal: str = "logits", channels: tuple[int, int] = (CLASSES, CLASSES)
) -> Sample:
    """Frames of sound: (N, T, C), of different lengths, which the mask tells."""
    labels, mask = _labels(n, length), _lengths(n, length)
    bands = {"features": _normal(0, n, length, WIDTH)}
    return _sample(signal, (n, length), channels, -1, _padded(n, bands, labels, mask))


def nodes(n: int = 8, *, signal: str = "logits", channels: tuple[int, int] = (CLASSES, CLASSES)) -> Sample:
    """Nodes of a graph: (N, C); ``edges`` int64 (2, E) name rows by their number, in a ring, both ways."""
    ring = torch.arange(n)
    ahead = torch.stack([ring, (ring + 1) % n])
    batch = {
        "id": ring,
        "features": _normal(0, n, WIDTH),
        "labels": _labels(n),
        "edges": torch.cat([ahead, ahead.flip(0)], 1),
    }
    return _sample(signal, (n,), channels, -1, batch)


def boxes(n: int = 4, *, anchors: int = 7) -> Sample:
    """Boxes at anchors: ``logits`` (N, A, C) and ``boxes`` (N, A, 4); the mask says where there is an object."""
    labels, mask = _labels(n, anchors), _lengths(n, anchors)
    sample = _sample("logits", (n, anchors), (CLASSES, CLASSES), -1, _padded(n, {}, labels, mask))
    for seed, role in ((4, sample["student"]), (5, sample["teacher"])):
        corners = _draw(seed, n, anchors, 2, 2).sort(2).values  # the first is left of and above the second
        role["boxes"] = corners.flatten(2)
    sample["batch"]["image"] = _normal(0, n, 3, 6, 8)
    return sample


# ---- nets that read these batches, with the same weights each time


def vector_net(classes: int = CLASSES) -> nn.Module:
    """``image`` (N, 6) -> logits (N, classes); parts ``0``, ``1`` and ``2``."""
    return _seeded(lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, classes)))


def map_net(classes: int = CLASSES) -> nn.Module:
    """``image`` (N, 3, H, W) -> logits (N, classes, H, W)."""
    return _seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1))
    )


def token_net(vocabulary: int = CLASSES) -> nn.Module:
    """``input_ids`` (N, T) -> logits (N, T, vocabulary)."""
    return _seeded(lambda: nn.Sequential(nn.Embedding(vocabulary, 8), nn.Tanh(), nn.Linear(8, vocabulary)))


def frame_net(classes: int = CLASSES) -> nn.Module:
    """``features`` (N, T, 6) -> logits (N, T, classes)."""
    return _seeded(lambda: nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, classes)))


def node_net(classes: int = CLASSES) -> nn.Module:
    """``features`` (N, 6), ``edges`` (2, E) -> logits (N, classes)."""
    return _seeded(lambda: _NodeNet(classes))


def box_net(classes: int = CLASSES, *, anchors: int = 7) -> nn.Module:
    """``image`` (N, 3, H, W) -> a dictionary of ``logits`` (N, anchors, classes) and ``boxes`` (N, anchors, 4)."""
    return _seeded(lambda: _BoxNet(classes, anchors))


class _NodeNet(nn.Module):
    """Each node is told the mean of its neighbours."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.own, self.near = nn.Linear(WIDTH, classes), nn.Linear(WIDTH, classes)

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        added = torch.zeros_like(features).index_add(0, target, features[source])
        number = torch.zeros(len(features), 1).index_add(0, target, torch.ones(len(source), 1))
        near: Tensor = self.near(added / number.clamp(min=1))
        own: Tensor = self.own(features)
        return near + own


class _BoxNet(nn.Module):
    """One vector of an image, told as classes and corners."""

    def __init__(self, classes: int, anchors: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classes, self.corners = nn.Linear(8, anchors * classes), nn.Linear(8, anchors * 4)
        self.anchors = anchors

    def forward(self, image: Tensor) -> Signals:
        seen = self.body(image)
        logits, corners = (part(seen).unflatten(1, (self.anchors, -1)) for part in (self.classes, self.corners))
        return {"logits": logits, "boxes": corners.sigmoid()}


# ---- seeds


def _sample(signal: str, positions: tuple[int, ...], channels: tuple[int, int], axis: int, batch: Batch) -> Sample:
    ours, theirs = (
        2 * _normal(seed, *positions, count).movedim(-1, axis) for seed, count in zip((1, 2), channels, strict=True)
    )
    return {"student": {signal: ours}, "teacher": {signal: theirs}, "batch": batch, "class_axis": axis}


def _padded(n: int, inputs: Batch, labels: Tensor, mask: Tensor) -> Batch:
    return {"id": torch.arange(n), **inputs, "labels": labels.masked_fill(~mask, IGNORE), "mask": mask}


def _labels(*shape: int) -> Tensor:
    """One in about ten has none."""
    made = torch.randint(CLASSES, shape, generator=_generator(6))
    return made.masked_fill(_draw(7, *shape) < 0.1, IGNORE)


def _lengths(n: int, length: int) -> Tensor:
    """(N, T) bool: from all positions of the first sample down to none of the last."""
    return torch.arange(length) < torch.linspace(length, 0, n).round().unsqueeze(1)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=_generator(seed))


def _draw(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=_generator(seed))


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()
