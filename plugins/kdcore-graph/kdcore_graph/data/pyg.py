"""Data sets of PyTorch Geometric and of the Open Graph Benchmark, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcore.errors import RunError, did_you_mean
from kdcore_graph.data.source import Source
from kdcore_graph.graph import Graph


class Pyg(Source):
    """The first graph of a data set of ``torch_geometric.datasets``; it may be downloaded there.

    Args:
        name: the class, such as ``Planetoid`` or ``FakeDataset``.
        options: its arguments, such as ``{root: data, name: Cora}``.
        largest_component: keep only the largest connected component.

    Raises:
        RunError: PyG has no such data set, refuses the options, or the graph has no features or labels.
    """

    def __init__(self, *, name: str, options: dict[str, Any] = {}, largest_component: bool = False) -> None:  # noqa: B006
        super().__init__()
        self._name, self._options, self.only_largest = name, dict(options), largest_component
        self.where = f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"

    def read(self) -> Graph:
        from torch_geometric import datasets
        from torch_geometric.data import Dataset

        known = [name for name in datasets.__all__ if isinstance(getattr(datasets, name), type)]
        if self._name not in known or not issubclass(getattr(datasets, self._name), Dataset):
            raise RunError(
                f"torch_geometric.datasets has no data set `{self._name}`: {did_you_mean(self._name, known)}"
            )
        try:
            data = getattr(datasets, self._name)(**self._options)[0]
        except TypeError as error:
            raise RunError(f"{self.where}: {error}; write its arguments under `options`") from error
        missing = [part for part in ("x", "y", "edge_index") if getattr(data, part, None) is None]
        if missing or data.y.ndim > 1:
            raise RunError(
                f"{self.where} has no {missing[0] if missing else 'single label per node'}: nothing to learn"
            )
        split = None
        if getattr(data, "train_mask", None) is not None and data.train_mask.ndim == 1:
            split = _from_masks(data.train_mask, data.val_mask, data.test_mask)
        labels = data.y.long()
        return Graph(data.x.float(), data.edge_index.long(), labels, int(labels.max()) + 1, split)


class Ogb(Source):
    """A node or link set of the Open Graph Benchmark (``ogbn-arxiv``, ``ogbl-collab``, ...), with its split.

    Args:
        name: of the data set.
        root: folder it is, or will be downloaded to, relative to where the run is started. It is no ``Path``, whose
            files would count in a stage's identity: a download would make the stage another one.

    Raises:
        RunError: ``ogb`` is not installed, or the set has no single label or no features.
    """

    def __init__(self, *, name: str, root: str = "data") -> None:
        super().__init__()
        self._name, self._root, self.where = name, root, name

    def read(self) -> Graph:
        try:
            if self._name.startswith("ogbl-"):
                from ogb.linkproppred import LinkPropPredDataset as Reader
            else:
                from ogb.nodeproppred import NodePropPredDataset as Reader
        except ImportError as error:
            raise RunError("the data `graph.ogb` needs ogb: pip install kdcore-graph[ogb]") from error
        return from_ogb(Reader(name=self._name, root=self._root), self.where)


def from_ogb(dataset: Any, where: str) -> Graph:
    """The graph of one of ogb's library-agnostic readers.

    Raises:
        RunError: the nodes have no features, or several labels.
    """
    found = dataset[0]
    graph, labels = found if isinstance(found, tuple) else (found, None)
    if graph["node_feat"] is None:
        raise RunError(f"{where}: the nodes have no features, which is all that an MLP sees")
    features = torch.from_numpy(np.asarray(graph["node_feat"], np.float32))
    edges = torch.from_numpy(np.asarray(graph["edge_index"], np.int64))
    if labels is None:  # a link set: its message edges are those of the graph
        return Graph(features, edges, torch.zeros(len(features), dtype=torch.int64), 1)
    if labels.ndim == 2 and labels.shape[1] != 1:
        raise RunError(f"{where}: a node has {labels.shape[1]} labels, and this task takes one")
    split = torch.full((len(features),), -1, dtype=torch.int8)
    for part, name in enumerate(("train", "valid", "test")):
        split[torch.from_numpy(dataset.get_idx_split()[name])] = part
    target = torch.from_numpy(labels).flatten().long()
    return Graph(features, edges, target, int(target.max()) + 1, split)


def _from_masks(*masks: Tensor) -> Tensor:
    split = torch.full(masks[0].shape, -1, dtype=torch.int8)
    for part, mask in enumerate(masks):
        split[mask] = part
    return split
