"""Adapters: small branches beside a net's layers, which another objective can leave out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from kdcore.errors import RunError
from kdcore.taps import TapPath
from torch import Tensor, nn
from torch.nn.functional import relu


def adapters(module: nn.Module, *, layers: str, width: int = 64, scale: float = 0.1) -> nn.Module:
    """Put an adapter beside each of these layers: ``layer(x) + scale * V relu(W norm(x))``, x its first input.

    V begins as 0, so that the net is as it was. A layer's own weights are named ``LAYER.shared.*`` from then on, and
    those of its adapter ``LAYER.adapter.*``. The net is changed in place.

    Args:
        module: a net.
        layers: a pattern of names, such as ``encoder.blocks.*.after``: layers with (N, T, D) in and out.
        width: channels inside an adapter; 64 as in the paper's experiments.
        scale: how strong adapters are; 0.1 likewise.

    Raises:
        RunError: the net has no such layer, or one whose width cannot be told.
        ValueError: ``width`` below 1.

    **Paper**: Heo et al., One-Step Knowledge Distillation and Fine-Tuning, 2023 (arXiv 2305.17394), which puts them
    beside the feed-forward layers of the student's transformer.
    """
    if width < 1:
        raise ValueError(f"width={width}: give at least 1")
    for name in TapPath.parse(layers).modules(module, "the net"):
        parent, _, own = name.rpartition(".")
        layer = module.get_submodule(name)
        setattr(module.get_submodule(parent), own, Adapted(layer, _width(layer, name), width, scale))
    return module


class Adapter(nn.Module):
    """A norm and two layers, the second of which begins as 0: (N, T, D)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.down, self.up = nn.Linear(channels, width), nn.Linear(width, channels)
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(relu(self.down(self.norm(x))))
        return y


class Adapted(nn.Module):
    """A layer and the adapter beside it.

    Attributes:
        enabled: whether the adapter speaks.
    """

    def __init__(self, shared: nn.Module, channels: int, width: int, scale: float) -> None:
        super().__init__()
        self.shared = shared
        self.adapter = Adapter(channels, width)
        self.scale = scale
        self.enabled = True

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = self.shared(x, *args, **kwargs)
        if not self.enabled:
            return y
        return torch.add(y, self.adapter(x), alpha=self.scale)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The adapters of a net are silent for the time being."""
    adapted = [module for module in model.modules() if isinstance(module, Adapted)]
    before = [module.enabled for module in adapted]
    for module in adapted:
        module.enabled = False
    try:
        yield
    finally:
        for module, enabled in zip(adapted, before, strict=True):
            module.enabled = enabled


def _width(layer: nn.Module, name: str) -> int:
    """The channels of what goes into a layer: those of its first linear layer or norm."""
    for part in layer.modules():
        if isinstance(part, nn.Linear):
            return part.in_features
        if isinstance(part, nn.LayerNorm):
            return int(part.normalized_shape[-1])
    raise RunError(f"an adapter needs a layer with a linear layer or a norm in it, and `{name}` has none")
