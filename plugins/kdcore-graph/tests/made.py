"""Small graphs by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcore_graph.data.source import Source
from kdcore_graph.graph import Graph, both_ways


def path_graph(nodes: int = 6, classes: int = 2, width: int = 3) -> Graph:
    """0 - 1 - 2 - ...; features differ, labels alternate."""
    ends = torch.arange(nodes - 1)
    features = torch.arange(nodes * width, dtype=torch.float32).view(nodes, width) / 10
    return Graph(features, both_ways(torch.stack([ends, ends + 1]), nodes), torch.arange(nodes) % classes, classes)


def random_graph(nodes: int = 120, classes: int = 3, width: int = 5, degree: int = 3, seed: int = 0) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(nodes) % classes
    ring = torch.arange(nodes)
    drawn = torch.randint(nodes, (2, degree * nodes), generator=generator)
    edges = both_ways(torch.cat([torch.stack([ring, (ring + classes) % nodes]), drawn], 1), nodes)
    features = torch.randn(nodes, width, generator=generator) + 0.5 * torch.nn.functional.one_hot(labels, width)
    return Graph(features, edges, labels, classes)


def npz(path: Path, graph: Graph) -> Path:
    """A graph as a file of numpy's arrays, as ``graph.npz`` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, edges=graph.edges.T.numpy(), x=graph.features.numpy(), y=graph.labels.numpy())
    return path


class Made(Source):
    """A source that holds a graph made by a test."""

    where = "made"

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._made = graph

    def read(self) -> Graph:
        return self._made


def dense(edges: Tensor, nodes: int) -> Tensor:
    """The adjacency matrix: ``[target, source]``."""
    matrix = torch.zeros(nodes, nodes)
    matrix[edges[1], edges[0]] = 1
    return matrix
