"""Nets that score pairs of nodes: an encoder of nodes and a decoder of pairs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from kdcore.signals import Signals
from kdcore_graph.models.gnn import GNN
from kdcore_graph.models.mlp import MLP


class _Pairs(nn.Module):
    """``encoder`` gives each node ``hidden`` (M, width); ``decoder`` scores the product of two of them."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(
        self, features: Tensor, pairs: Tensor | None = None, edges: Tensor | None = None, chunk: int | None = None
    ) -> Signals:
        """``hidden`` of all nodes and, of pairs (..., 2), ``logits`` (..., 2): no edge, edge."""
        graph = () if edges is None else (edges, chunk)
        hidden = self.encoder(features, *graph)["logits"]
        return {"hidden": hidden} if pairs is None else {"hidden": hidden, "logits": self.decode(hidden, pairs)}

    def decode(self, hidden: Tensor, pairs: Tensor) -> Tensor:
        score = self.decoder(hidden[pairs[..., 0]] * hidden[pairs[..., 1]])
        return torch.cat([torch.zeros_like(score), score], -1)


class LinkGNN(_Pairs):
    """Scores pairs by what a GNN says about both: the product of their embeddings, through an MLP.

    Args:
        features: numbers a node has.
        conv: the convolution; see ``graph.gnn``.
        width: of the hidden layers and the embeddings.
        layers: of the encoder.
        dropout: share of the hidden layers' outputs set to 0 in training.
        norm: between the layers.
    """

    takes_graph = True
    shared: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        features: int,
        conv: Literal["sage", "gcn", "gat", "appnp"] = "sage",
        width: int = 128,
        layers: int = 2,
        dropout: float = 0.0,
        norm: Literal["none", "batch", "layer"] = "none",
    ) -> None:
        encoder = GNN(
            classes=width, features=features, conv=conv, width=width, layers=layers, dropout=dropout, norm=norm
        )
        super().__init__(encoder, width)


class LinkMLP(_Pairs):
    """Scores pairs by the features of both nodes alone; needs torch only.

    Args:
        features: numbers a node has.
        width: of the hidden layers and the embeddings.
        layers: of the encoder.
        dropout: share of the hidden layers' outputs set to 0 in training.
        norm: between the layers.
    """

    def __init__(
        self,
        *,
        features: int,
        width: int = 128,
        layers: int = 2,
        dropout: float = 0.0,
        norm: Literal["none", "batch", "layer"] = "none",
    ) -> None:
        encoder = MLP(classes=width, features=features, width=width, layers=layers, dropout=dropout, norm=norm)
        super().__init__(encoder, width)
