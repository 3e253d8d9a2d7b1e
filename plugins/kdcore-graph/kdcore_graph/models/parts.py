"""What nets over graphs and nets over features share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """``(x - mean) / std`` by column, stored with the weights, so that a net takes the data as it comes.

    Args:
        features: number of columns.
        mean: by column; nothing is done where there is none.
        std: by column.

    Raises:
        ValueError: not one number for each column.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, features: int, mean: list[float] | None, std: list[float] | None) -> None:
        super().__init__()
        for name, values in (("feature_mean", mean), ("feature_std", std)):
            if values is not None and len(values) != features:
                raise ValueError(f"{name} holds {len(values)} numbers, and there are {features} features")
        self.register_buffer("mean", None if mean is None else torch.tensor(mean))
        self.register_buffer("std", None if std is None else torch.tensor(std))

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is not None and x.layout == torch.sparse_csr:
            x = x.to_dense()
        x = x if self.mean is None else x - self.mean
        return x if self.std is None else x / self.std


def make_norm(name: str, width: int) -> nn.Module:
    """``none``, ``batch`` or ``layer``, over (N, width)."""
    if name == "batch":
        return nn.BatchNorm1d(width)
    return nn.LayerNorm(width) if name == "layer" else nn.Identity()
