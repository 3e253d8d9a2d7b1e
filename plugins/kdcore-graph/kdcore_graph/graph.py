"""A graph in memory: features, edges and labels, checked once, moved to each device once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.errors import RunError
from kdcore.signals import IGNORE


@dataclass
class Graph:
    """Nodes with features and labels, joined by directed edges (an undirected edge is there twice).

    Args:
        features: float32 (N, F).
        edges: int64 (2, E), messages flow from row 0 to row 1.
        labels: int64 (N,), -100 where a node has none.
        classes: how many classes there are.
        split: int8 (N,) as the data set publishes it: 0 train, 1 validation, 2 test, -1 none; ``None`` without.
        names: of the nodes, where the data has its own ids; for messages and tables.
        columns: of the features, by name, in this order.
        class_names: a name for each class.
    """

    features: Tensor
    edges: Tensor
    labels: Tensor
    classes: int
    split: Tensor | None = None
    names: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def nodes(self) -> int:
        return len(self.features)

    def name_of(self, node: int) -> str:
        """How a message calls a node."""
        return f"node {node}" if self.names is None else f"node `{self.names[node]}`"

    def select(self, keep: Tensor) -> Graph:
        """The subgraph induced by some nodes, renumbered.

        Args:
            keep: bool (N,).
        """
        index = keep.nonzero().flatten()
        number = torch.full((self.nodes,), -1)
        number[index] = torch.arange(len(index))
        chosen = index.tolist()
        return Graph(
            self.features[index],
            number[self.edges[:, keep[self.edges].all(0)]],
            self.labels[index],
            self.classes,
            None if self.split is None else self.split[index],
            None if self.names is None else tuple(self.names[i] for i in chosen),
            self.columns,
            self.class_names,
        )


def check_graph(graph: Graph, where: str) -> Graph:
    """The same graph, or a message that names what is wrong with it.

    Args:
        where: the file or data set, which every message starts with.

    Raises:
        RunError: no nodes, no edges, shapes that differ, an edge to a node that is not there, labels outside the
            classes, no labels at all, features that are NaN or infinite.
    """
    n = graph.nodes
    if n == 0:
        raise RunError(f"{where}: the graph is empty: it has no nodes")
    if graph.features.ndim != 2 or graph.features.shape[1] == 0:
        raise RunError(f"{where}: the features have the shape {tuple(graph.features.shape)}: give (N, F), F above 0")
    if len(graph.labels) != n:
        raise RunError(f"{where}: {n} nodes have features, and there are {len(graph.labels)} labels")
    _check_edges(graph, where)
    _check_labels(graph, where)
    broken = ~graph.features.isfinite().all(1)
    if broken.any():
        first = int(broken.nonzero()[0])
        column = int((~graph.features[first].isfinite()).nonzero()[0])
        called = f"column {column}" if graph.columns is None else f"column `{graph.columns[column]}`"
        raise RunError(
            f"{where}: the features hold NaN or infinity in {int(broken.sum())} of {n} nodes, first {called} of "
            f"{graph.name_of(first)}: fill them or leave these nodes out"
        )
    return graph


def _check_edges(graph: Graph, where: str) -> None:
    edges, n = graph.edges, graph.nodes
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise RunError(f"{where}: the edges have the shape {tuple(edges.shape)}: give (2, E)")
    if edges.shape[1] == 0:
        raise RunError(f"{where}: the graph has {n} nodes and no edges: a GNN would see each node alone")
    wrong = (edges < 0) | (edges >= n)
    if wrong.any():
        side, at = (int(i) for i in wrong.nonzero()[0])
        raise RunError(
            f"{where}: edge {at} names node {int(edges[side, at])}, and nodes are numbered 0 to {n - 1} "
            f"({int(wrong.any(0).sum())} such edges)"
        )


def _check_labels(graph: Graph, where: str) -> None:
    labels = graph.labels
    wrong = ((labels < 0) | (labels >= graph.classes)) & (labels != IGNORE)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise RunError(
            f"{where}: {graph.name_of(first)} has the label {int(labels[first])}, and the classes are 0 to "
            f"{graph.classes - 1}; {IGNORE} means no label"
        )
    if bool((labels == IGNORE).all()):
        raise RunError(f"{where}: no node has a label")


def both_ways(edges: Tensor, nodes: int) -> Tensor:
    """Each edge once in each direction, without self-loops and duplicates, sorted by target: int64 (2, E)."""
    edges = torch.cat([edges, edges.flip(0)], 1)
    edges = edges[:, edges[0] != edges[1]]
    key = torch.unique(edges[1] * nodes + edges[0])
    return torch.stack([key % nodes, key.div(nodes, rounding_mode="floor")])


def refuse_isolated(graph: Graph, where: str) -> None:
    """See that every node has an edge.

    Raises:
        RunError: some have none; the message names the first of them.
    """
    alone = torch.ones(graph.nodes, dtype=torch.bool)
    alone[graph.edges.flatten()] = False
    found = alone.nonzero().flatten().tolist()
    if found:
        first = ", ".join(graph.name_of(node) for node in found[:5])
        raise RunError(
            f"{where}: {len(found)} of {graph.nodes} nodes have no edge: {first}{', ...' if len(found) > 5 else ''}. "
            "The graph tells nothing about them. Say `isolated: keep` in the data to take them as they are, or "
            "`largest_component: true` in the source to leave them out"
        )


def largest_component(graph: Graph) -> Graph:
    """The largest connected component, as the CPF data are used in GLNN."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    source, target = graph.edges.numpy()
    matrix = coo_array((torch.ones(graph.edges.shape[1]).numpy(), (source, target)), shape=(graph.nodes, graph.nodes))
    parts = torch.from_numpy(connected_components(matrix, directed=False)[1]).long()
    return graph.select(parts == torch.bincount(parts).argmax())


class GraphView:
    """What a batch knows of the whole graph. Not copied to the device with the batch, but once, when first asked for.

    No dataclass and without a method ``to``: Lightning would take it apart and move it in every step.

    Args:
        features: (N, F) of all nodes.
        edges: (2, E) among the nodes that are known while training (all of them in the transductive setting).
        all_edges: of the whole graph, for predictions about unseen nodes; ``None`` where nothing is unseen.
        unseen: bool (N,); ``None`` where nothing is.
        noisy: the features with noise, for the accuracy under noise; ``None`` without.
    """

    def __init__(
        self,
        features: Tensor,
        edges: Tensor,
        all_edges: Tensor | None = None,
        unseen: Tensor | None = None,
        noisy: Tensor | None = None,
    ) -> None:
        self.features, self.edges, self.all_edges, self.unseen, self.noisy = features, edges, all_edges, unseen, noisy
        self._moved: dict[torch.device, GraphView] = {}

    @property
    def nodes(self) -> int:
        return len(self.features)

    def on(self, device: torch.device) -> GraphView:
        """The same on a device; moved there once."""
        if self.features.device == device:
            return self
        if device not in self._moved:
            extra = (self.all_edges, self.unseen, self.noisy)
            moved = (None if part is None else part.to(device) for part in extra)
            self._moved[device] = GraphView(self.features.to(device), self.edges.to(device), *moved)
        return self._moved[device]
