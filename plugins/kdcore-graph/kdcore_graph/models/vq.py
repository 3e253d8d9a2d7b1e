"""A GNN whose hidden state is said in codes: VQGraph's teacher."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from kdcore.signals import Signals
from kdcore_graph.losses.vqgraph import squared_distances
from kdcore_graph.models.gnn import GNN, Prepared


class VQGNN(GNN):
    """A GNN that rounds what its last layer reads to the nearest code of a codebook.

    Shape: as ``graph.gnn``, and beside its signals ``quantised`` (N, width), ``codes`` (N, K), the negative squared
    distances to the codes, and ``codebook`` (K, width). Gradients pass the rounding as if it were not there.

    Args:
        classes: number of classes.
        features: numbers a node has.
        codes: size K of the codebook.
        conv: the convolution; see ``graph.gnn``.
        width: of the hidden layers and the codes.
        layers: how many.
        dropout: share of the hidden layers' outputs set to 0 in training.
        norm: between the layers.
        feature_mean: subtracted from the features; filled in where the data scales.
        feature_std: divides them, likewise.

    Raises:
        ValueError: fewer than two layers or codes.

    **Paper**: Yang et al., VQGraph, 2023 (arXiv 2308.02117).
    **Deviation**: a code that no node of a training batch uses is put where a random node is; without that nearly all
    codes died within a few steps, and the classes with them.
    """

    shared: tuple[str, ...] = ("codebook",)

    def __init__(
        self,
        *,
        classes: int,
        features: int,
        codes: int = 512,
        conv: Literal["sage", "gcn", "gat"] = "sage",
        width: int = 128,
        layers: int = 2,
        dropout: float = 0.0,
        norm: Literal["none", "batch", "layer"] = "none",
        feature_mean: list[float] | None = None,
        feature_std: list[float] | None = None,
    ) -> None:
        if layers < 2 or codes < 2:
            raise ValueError(f"layers={layers} and codes={codes}: give at least 2 of each")
        super().__init__(
            classes=classes, features=features, conv=conv, width=width, layers=layers, dropout=dropout, norm=norm,
            feature_mean=feature_mean, feature_std=feature_std,
        )  # fmt: skip
        self.codebook = nn.Parameter(torch.randn(codes, width) / width**0.5)

    @torch.no_grad()
    def _revive(self, state: Tensor) -> None:
        """Put each code that no node uses where a random node is; in the first step that is nearly all of them."""
        nearest = (-squared_distances(state, self.codebook)).argmax(1)
        used = torch.zeros(len(self.codebook), device=state.device).index_fill_(0, nearest, 1.0).bool()
        drawn = state[torch.randint(len(state), (len(self.codebook),), device=state.device)]
        self.codebook.copy_(torch.where(used.unsqueeze(1), self.codebook, drawn))

    def finish(self, state: Tensor, step: nn.Module, prepared: Prepared, chunk: int | None) -> Signals:
        if self.training:
            self._revive(state)
        near = -squared_distances(state, self.codebook)
        quantised = self.codebook[near.detach().argmax(1)]
        found = super().finish(state + (quantised - state).detach(), step, prepared, chunk)
        return {**found, "hidden": state, "quantised": quantised, "codes": near, "codebook": self.codebook}
