"""The student: a multilayer perceptron that sees one node's features and nothing of the graph. Needs torch alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from kdcore.signals import Signals
from kdcore_graph.models.parts import Scale, make_norm


class MLP(nn.Module):
    """``body.0`` ... (linear, norm, ReLU, dropout), then ``head``.

    Shape: features (N, F) and, where it uses them, positions (N, P) -> ``logits`` (N, classes), ``hidden`` (N, width).

    Args:
        classes: number of classes.
        features: numbers a node has.
        width: of the hidden layers.
        layers: linear layers, the head included; 1 is a linear classifier.
        dropout: share of each hidden layer's outputs set to 0 in training.
        norm: between the layers, as in GLNN.
        use_positions: join a node's place in the graph to its features (NOSMOG), where the data gives it.
        positions: numbers a place has; filled in from the data.
        feature_mean: subtracted from the features; filled in where the data scales.
        feature_std: divides them, likewise.

    Raises:
        ValueError: fewer than one layer, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        *,
        classes: int,
        features: int,
        width: int = 128,
        layers: int = 2,
        dropout: float = 0.0,
        norm: Literal["none", "batch", "layer"] = "none",
        use_positions: bool = False,
        positions: int = 0,
        feature_mean: list[float] | None = None,
        feature_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers={layers}: give at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is not in [0, 1)")
        if use_positions and not positions:
            raise ValueError("use_positions=True, and the data gives none: set `data.positions`")
        self.positions = positions if use_positions else 0
        self.scale = Scale(features, feature_mean, feature_std)
        sizes = [features + self.positions, *[width] * (layers - 1)]
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(a, b), make_norm(norm, b), nn.ReLU(), nn.Dropout(dropout))
                for a, b in pairwise(sizes)
            )
        )
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, features: Tensor, positions: Tensor | None = None) -> Signals:
        x = self.scale(features)
        if self.positions:
            if positions is None:
                raise ValueError("this net reads positions, and the batch holds none: set `positions` in the data")
            x = torch.cat([x.to_dense() if x.layout == torch.sparse_csr else x, positions], 1)
        hidden = self.body(x)
        return {"logits": self.head(hidden), "hidden": hidden}
