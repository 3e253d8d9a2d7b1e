"""Batches of nodes: the whole observed graph at once, some of its nodes, or some with sampled neighbours."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from kdcore.data.arrays import Columns
from kdcore.data.seeds import derive_seed
from kdcore.signals import IGNORE, Batch
from kdcore_graph.graph import GraphView
from kdcore_graph.sampling import NeighbourSampler, by_target

SPARSE = 0.05
"""Share of non-zero features below which a CPU multiplies them faster as a sparse matrix (three times at 0.013)."""


def thinned(features: Tensor) -> Tensor:
    """The same in compressed rows, where these are on a CPU and mostly zeros, as words of texts are."""
    if features.device.type != "cpu" or int(features.count_nonzero()) > SPARSE * features.numel():
        return features
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls the layout a beta
        return features.to_sparse_csr()


class Rows:
    """Some nodes of a graph, fetched by row, with what every batch holds beside them.

    Args:
        columns: of these nodes, ``id`` among them.
        view: the graph they belong to.
        extra: put into every batch as it is.
    """

    def __init__(self, columns: Columns, view: GraphView, **extra: Any) -> None:
        self.columns, self.view, self.extra = columns, view, extra

    def __len__(self) -> int:
        return len(self.columns)

    def __getitems__(self, index: Any) -> Batch:
        return {**self.columns.__getitems__(index), "graph": self.view, **self.extra}


class Whole:
    """The same full batch, so many times in an epoch. It lies on the device: a step neither fetches nor copies it.

    Args:
        rows: the nodes.
        edges: int64 (2, E) among the rows.
        steps: how many make an epoch.
        device: where the nets are.
    """

    def __init__(self, rows: Rows, edges: Tensor, steps: int, device: torch.device) -> None:
        whole = {**rows.columns.columns, "edges": edges}
        self._batch: Batch = {name: value.to(device) for name, value in whole.items()}
        self._batch["features"] = thinned(self._batch["features"])
        self._batch |= {"graph": rows.view, **rows.extra}
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __getitems__(self, index: Any) -> Batch:
        return dict(self._batch)


class Neighbourhoods:
    """Some nodes of a graph as seeds, each batch with sampled neighbours behind them.

    The seeds come first; ``mask`` is true for them, and the labels of all others are hidden. ``edges`` are among the
    rows of the batch. What is sampled is a pure function of (seed, the seeds' ids, how often this batch was drawn).

    Args:
        seeds: the nodes to train on.
        everything: columns of all nodes of the graph, in the order of their ids.
        view: the graph.
        fanout: neighbours in each hop.
        seed: the recipe's.
    """

    def __init__(self, seeds: Rows, everything: Columns, fanout: list[int], seed: int) -> None:
        self._seeds, self._everything, self._fanout, self._seed = seeds, everything, fanout, seed
        self._sampler = NeighbourSampler(by_target(seeds.view.edges, seeds.view.nodes))

    def __len__(self) -> int:
        return len(self._seeds)

    def __getitems__(self, index: Any) -> Batch:
        ids = self._seeds.columns.columns["id"][torch.as_tensor(index)]
        # the order of an epoch is new in each, and with it the first ids: another draw, which a resume repeats
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "fanout", *ids[:4].tolist()))
        nodes, edges = self._sampler.sample(ids, self._fanout, generator)
        batch = self._everything.__getitems__(nodes)
        mask = torch.arange(len(nodes)) < len(ids)
        batch["labels"] = torch.where(mask, batch["labels"], IGNORE)
        return {**batch, "edges": edges, "mask": mask, "graph": self._seeds.view, **self._seeds.extra}
