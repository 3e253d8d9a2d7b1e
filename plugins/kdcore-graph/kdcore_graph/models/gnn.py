"""Graph neural networks from PyTorch Geometric's convolutions: the teachers."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's words to PyG's authors, not to ours
    from torch_geometric.nn import GATConv, GCNConv, SAGEConv, SimpleConv

from kdcore.signals import Signals
from kdcore_graph.models.parts import Scale, make_norm
from kdcore_graph.sampling import by_target, chunks


class Prepared(NamedTuple):
    """Edges as the convolutions take them: with self-loops and, for most, weights."""

    edges: Tensor
    weight: Tensor | None


class GNN(nn.Module):
    """Message passing over a graph: ``steps.0`` ... ``steps.{layers-1}``.

    Shape: features (N, F) and edges int64 (2, E) -> ``logits`` (N, classes) and ``hidden``, what the last layer reads.

    Args:
        classes: number of classes.
        features: numbers a node has.
        conv: ``gcn`` (Kipf and Welling, 1609.02907), ``sage`` (Hamilton et al., 1706.02216), ``gat`` (Velickovic et
            al., 1710.10903) or ``appnp`` (Gasteiger et al., 1810.05997).
        width: of the hidden layers, over all heads.
        layers: how many; for ``appnp`` of the MLP before the propagation.
        dropout: share of the hidden layers' outputs set to 0 in training.
        norm: between the layers.
        aggregator: of ``sage``: ``gcn`` takes the mean of a node and its neighbours, as GLNN does; ``mean`` gives the
            node a weight matrix of its own.
        heads: of ``gat``.
        hops: of ``appnp``.
        teleport: of ``appnp``, how much of its own prediction a node keeps in each hop.
        feature_mean: subtracted from the features; filled in where the data scales.
        feature_std: divides them, likewise.

    Raises:
        ValueError: fewer than one layer or hop, or heads that do not divide the width.
    """

    takes_graph = True
    shared: tuple[str, ...] = ()
    """Signals that have no row for each node."""

    def __init__(
        self,
        *,
        classes: int,
        features: int,
        conv: Literal["sage", "gcn", "gat", "appnp"] = "sage",
        width: int = 128,
        layers: int = 2,
        dropout: float = 0.0,
        norm: Literal["none", "batch", "layer"] = "none",
        aggregator: Literal["gcn", "mean"] = "gcn",
        heads: int = 8,
        hops: int = 10,
        teleport: float = 0.1,
        feature_mean: list[float] | None = None,
        feature_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        if layers < 1 or hops < 1:
            raise ValueError(f"layers={layers} and hops={hops}: give at least 1 of each")
        if conv == "gat" and width % heads:
            raise ValueError(f"width={width} cannot be divided over heads={heads}")
        self.conv, self.aggregator = conv, aggregator
        self.scale = Scale(features, feature_mean, feature_std)
        self.mlp = nn.Sequential()
        sizes = [features, *[width] * (layers - 1), classes]
        if conv == "appnp":
            self.mlp.extend(_Step(nn.Linear(a, b), b, dropout, norm) for a, b in pairwise(sizes[:-1]))
            self.mlp.append(nn.Linear(sizes[-2], classes))
            self.steps = nn.ModuleList(_Propagate(teleport) for _ in range(hops))
        else:
            hidden = [_Step(self._conv(a, b, heads), b, dropout, norm) for a, b in pairwise(sizes[:-1])]
            self.steps = nn.ModuleList([*hidden, self._conv(sizes[-2], classes, 1)])
        self._last: tuple[Tensor, Prepared] | None = None

    def _conv(self, inputs: int, outputs: int, heads: int) -> nn.Module:
        if self.conv == "gat":
            made: nn.Module = GATConv(inputs, outputs // heads, heads, add_self_loops=False)
        elif self.aggregates_first:
            made = SAGEConv(inputs, outputs)
        else:  # the mean of a node and its neighbours commutes with the linear map: a weighted GCN layer
            made = GCNConv(inputs, outputs, normalize=False, add_self_loops=False)
        return made

    def forward(self, features: Tensor, edges: Tensor, chunk: int | None = None) -> Signals:
        """All nodes; with ``chunk`` layer by layer in pieces of so many nodes, which gives the same in less memory."""
        prepared = self.prepare(edges, len(features))
        if features.layout == torch.sparse_csr and self.aggregates_first:
            features = features.to_dense()
        state = hidden = self.scale(features)
        if self.conv == "appnp":
            hidden = self.mlp[:-1](state)
            local = self.mlp[-1](hidden)
            state = torch.cat([local, local], 1)
        for step in self.steps:
            if step is self.steps[-1] and self.conv != "appnp":
                return self.finish(state, step, prepared, chunk)
            state = _run(step, state, prepared, chunk)
        return {"logits": state[:, : state.shape[1] // 2], "hidden": hidden}

    def finish(self, state: Tensor, step: nn.Module, prepared: Prepared, chunk: int | None) -> Signals:
        """The last layer."""
        return {"logits": _run(step, state, prepared, chunk), "hidden": state}

    @property
    def aggregates_first(self) -> bool:
        """Whether the first layer reads neighbours before its linear map."""
        return self.conv == "sage" and self.aggregator == "mean"

    def prepare(self, edges: Tensor, nodes: int) -> Prepared:
        """Self-loops and weights; kept for the edge list that was given last, which in a stage is always the same."""
        if self._last is None or self._last[0] is not edges:
            self._last = edges, self._prepare(edges, nodes)
        return self._last[1]

    def _prepare(self, edges: Tensor, nodes: int) -> Prepared:
        if self.aggregates_first:
            return Prepared(edges, None)
        loops = torch.arange(nodes, device=edges.device).expand(2, nodes)
        edges = torch.cat([edges, loops], 1)
        if self.conv == "gat":
            return Prepared(edges, None)
        degree = torch.bincount(edges[1], minlength=nodes).float()
        if self.conv == "sage":
            return Prepared(edges, 1.0 / degree[edges[1]])
        out = torch.bincount(edges[0], minlength=nodes).float()
        return Prepared(edges, (degree[edges[1]] * out[edges[0]]).rsqrt())

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": None}


class _Step(nn.Module):
    """A layer, a norm, ReLU and dropout."""

    def __init__(self, layer: nn.Module, width: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.layer = layer
        self.after = nn.Sequential(make_norm(norm, width), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, x: Tensor, *graph: Tensor) -> Tensor:
        out: Tensor = self.after(self.layer(x, *graph))
        return out


class _Propagate(nn.Module):
    """A hop of APPNP: ``z <- (1 - a) A z + a h``; the state holds z and h side by side."""

    def __init__(self, teleport: float) -> None:
        super().__init__()
        self.teleport = teleport
        self.sum = SimpleConv(aggr="sum")

    def forward(self, state: Tensor, edges: Tensor, weight: Tensor) -> Tensor:
        z, h = state.chunk(2, 1)
        return torch.cat([(1 - self.teleport) * self.sum(z, edges, weight) + self.teleport * h, h], 1)


def _run(step: nn.Module, state: Tensor, prepared: Prepared, chunk: int | None) -> Tensor:
    edges, weight = prepared
    if chunk is None:
        whole: Tensor = step(state, edges) if weight is None else step(state, edges, weight)
        return whole
    pieces = []
    for piece in chunks(by_target(edges, len(state)), chunk):
        local = state[piece.nodes]
        found = step(local, piece.edges) if weight is None else step(local, piece.edges, weight[piece.which])
        pieces.append(found[: piece.targets.stop - piece.targets.start])
    return torch.cat(pieces)
