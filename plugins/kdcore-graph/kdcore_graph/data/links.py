"""Link prediction on one graph: which edges are known, which are asked for, and which pairs stand against them."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from kdcore.data.base import Data, Split
from kdcore.data.loader import Loader
from kdcore.data.seeds import derive_seed
from kdcore.errors import RunError
from kdcore.signals import Batch
from kdcore_graph.data.batches import thinned
from kdcore_graph.data.source import Source
from kdcore_graph.graph import Graph, GraphView, both_ways
from kdcore_graph.sampling import by_target

_TICKETS = 16
"""Numbers that seed what is drawn for a batch. An epoch's order is new in each, and repeated by a resume: so are they.
A batch of all edges is fetched by so many numbers that mean nothing else."""

SHOWN = 64
"""Pairs whose features a validation batch holds beside everything else: what an export tries its file on."""


class Links(Data):
    """Pairs of nodes. A batch holds ``pairs`` (P, 2), rows of ``features`` (M, F), ``labels`` (P,): 1 for an edge.

    Edges are undirected. Some of them, drawn at random, are asked for in validation and test, and no message passes
    along them; so many pairs without an edge stand against them. In training each batch has as many random pairs as
    edges, drawn anew in every step. ``id`` (P,) numbers the pairs of a batch, ``nodes`` (M,) says which nodes the rows
    are. With ``near`` or ``far`` a batch has ``contexts`` (M, near + far, 2), the pairs of each node with some others,
    of which LLP distils the order.

    Args:
        source: where the graph comes from.
        validation: share of the edges held out for validation.
        test: share of the edges held out for the test.
        negatives: pairs without an edge in validation, and as many in the test.
        split_seed: draws the split by this seed instead of the recipe's.
        batch_size: edges in a training batch; none for all at once.
        steps: with all edges in one batch, the steps between two validations (an epoch).
        near: neighbours of each node among its contexts, each reached by a walk of one to three steps.
        far: random nodes among its contexts.

    Raises:
        RunError: something is wrong with the graph, or too few edges for the split.
        ValueError: a number outside its range.

    **Paper**: Guo et al., Linkless Link Prediction via Relational Distillation, 2022 (arXiv 2210.05801).
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "features", "nodes")

    def __init__(
        self,
        *,
        source: Data,
        validation: float = 0.05,
        test: float = 0.1,
        negatives: int = 1000,
        split_seed: int | None = None,
        batch_size: int | None = None,
        steps: int = 1,
        near: int = 0,
        far: int = 0,
    ) -> None:
        super().__init__(batch_size=65536 if batch_size is None else batch_size)
        if not (validation > 0 and test > 0 and validation + test < 1):
            raise ValueError(f"validation={validation}, test={test}: give shares above 0 that leave edges to train on")
        if negatives < 1 or steps < 1 or near < 0 or far < 0:
            raise ValueError(
                f"negatives={negatives}, steps={steps} must be at least 1, near={near} and far={far} at least 0"
            )
        if not isinstance(source, Source):
            raise ValueError(
                f"source={type(source).__name__} gives no graph: use one such as graph.npz or graph.digits"
            )
        self._source: Source = source
        self._shares, self._negatives, self._split_seed = (validation, test), negatives, split_seed
        self._whole, self._steps, self._contexts = batch_size is None, steps, (near, far)

    @property
    def graph(self) -> Graph:
        return self._source.graph

    @cached_property
    def facts(self) -> dict[str, int]:  # type: ignore[override]
        return {"classes": 2, "features": self.graph.features.shape[1], "nodes": self.graph.nodes}

    @cached_property
    def parts(self) -> dict[str, Tensor]:
        """The undirected edges of each split: int64 (E, 2), smaller number first."""
        edges = self.graph.edges
        edges = torch.unique(edges.sort(0).values[:, edges[0] != edges[1]], dim=1).T
        vals, tests = (round(share * len(edges)) for share in self._shares)
        if min(vals, tests, len(edges) - vals - tests) < 1:
            raise RunError(
                f"{self._source.where}: {len(edges)} edges are too few to hold out {vals} and {tests} of them"
            )
        order = torch.randperm(len(edges), generator=self._generator("split"))
        names = ("val", "test", "train")
        return dict(zip(names, edges[order].split([vals, tests, len(edges) - vals - tests]), strict=True))

    @cached_property
    def view(self) -> GraphView:
        """The graph with the training edges alone."""
        return GraphView(self.graph.features, both_ways(self.parts["train"].T, self.graph.nodes))

    def _generator(self, *what: int | str) -> torch.Generator:
        seed = self.seed if self._split_seed is None else self._split_seed
        return torch.Generator().manual_seed(derive_seed(seed, "graph.links", *what))

    @cached_property
    def _edge_keys(self) -> Tensor:
        """Every edge of the graph as one number, sorted: what a negative must not be."""
        keys = torch.cat([_key(part, self.graph.nodes) for part in self.parts.values()])
        return keys.sort().values  # no edge is there twice

    def strangers(self, count: int, generator: torch.Generator) -> Tensor:
        """Pairs of different nodes without an edge in any split: int64 (count, 2).

        Raises:
            RunError: the graph is so dense that there are too few.
        """
        found = torch.empty((0, 2), dtype=torch.int64)
        for _ in range(20):
            pairs = torch.randint(self.graph.nodes, (2 * count, 2), generator=generator)
            pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & ~torch.isin(_key(pairs, self.graph.nodes), self._edge_keys)]
            found = torch.cat([found, pairs])[:count]
            if len(found) == count:
                return found
        raise RunError(
            f"{self._source.where}: hardly any two nodes are without an edge; {count} such pairs were not found"
        )

    # ---- splits

    def split(self, name: Split) -> _Training | _Asked:
        if name == "train":
            return _Training(self)
        return _Asked(self, torch.cat([self.parts[name], self.strangers(self._negatives, self._generator(name))]), name)

    def train_dataloader(self) -> Loader:
        """Batches of edges in a new order each epoch; or all of them, ``steps`` times.

        Raises:
            RunError: all edges in one batch cannot be divided over several devices.
        """
        trainer = self.trainer
        if self._whole and trainer is not None and trainer.world_size > 1:
            raise RunError(
                f"all edges are one batch and cannot be divided over {trainer.world_size} devices: "
                "set `data.batch_size`, or `trainer.devices: 1`"
            )
        if not self._whole:
            return super().train_dataloader()
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        whole = _Training(self, steps=self._steps, device=device)
        return Loader(whole, batch_size=_TICKETS, seed=self.seed, shuffle=True)


class _Training:
    """Training edges and, drawn anew in every batch, as many pairs without one."""

    def __init__(self, data: Links, *, steps: int | None = None, device: torch.device | None = None) -> None:
        self._data, self._steps, self._device = data, steps, device or torch.device("cpu")
        self._edges = data.parts["train"]
        self._near, self._far = data._contexts
        self._features = thinned(data.graph.features.to(self._device)) if steps is not None else data.graph.features
        self._message = data.view.edges.to(self._device)

    def __len__(self) -> int:
        return len(self._edges) if self._steps is None else self._steps * _TICKETS

    def __getitems__(self, index: Any) -> Batch:
        index = torch.as_tensor(index)
        edges = self._edges if self._steps is not None else self._edges[index]
        generator = self._data._generator("step", *index[:_TICKETS].tolist())
        pairs = torch.cat([edges, self._data.strangers(len(edges), generator)])
        batch: Batch = {
            "id": torch.arange(len(pairs)),
            "labels": _labels(len(edges), len(pairs)),
            "graph": self._data.view,
        }
        if self._near or self._far:
            batch["contexts"] = self._contexts(generator)
        batch["pairs"] = pairs
        moved = {name: value.to(self._device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        everything = torch.arange(self._data.graph.nodes, device=self._device)
        return {**moved, "features": self._features, "nodes": everything, "edges": self._message}

    def _contexts(self, generator: torch.Generator) -> Tensor:
        """Pairs of every node with near and far ones: (N, near + far, 2)."""
        nodes = self._data.graph.nodes
        found = [_walks(self._data.view, nodes, self._near, generator)] if self._near else []
        found.append(torch.randint(nodes, (nodes, self._far), generator=generator))
        others = torch.cat(found, 1)
        return torch.stack([torch.arange(nodes).unsqueeze(1).expand_as(others), others], 2)


def _walks(view: GraphView, nodes: int, near: int, generator: torch.Generator) -> Tensor:
    """Where ``near`` walks of one to three steps from each node end: (N, near). A node without edges stays."""
    rows = by_target(view.edges, nodes)
    at = torch.arange(nodes).unsqueeze(1).expand(nodes, near)
    length = torch.randint(1, 4, (nodes, near), generator=generator)
    degree = rows.starts[1:] - rows.starts[:-1]
    for step in range(3):
        drawn = (torch.rand((nodes, near), generator=generator, dtype=torch.float64) * degree[at]).long()
        place = (rows.starts[at] + drawn).clamp(max=len(rows.sources) - 1)
        at = torch.where((step < length) & (degree[at] > 0), rows.sources[place], at)
    return at


class _Asked:
    """Held-out edges, then pairs without one."""

    def __init__(self, data: Links, pairs: Tensor, name: Literal["val", "test"]) -> None:
        self._data, self._pairs = data, pairs
        self._labels = _labels(len(data.parts[name]), len(pairs))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitems__(self, index: Any) -> Batch:
        index = torch.as_tensor(index)
        nodes, rows = torch.unique(self._pairs[index], return_inverse=True)
        features, shown = self._data.graph.features, self._pairs[index[:SHOWN]]
        return {
            "id": index, "labels": self._labels[index], "pairs": rows, "nodes": nodes, "features": features[nodes],
            "source": features[shown[:, 0]], "target": features[shown[:, 1]], "graph": self._data.view,
        }  # fmt: skip


def _labels(edges: int, pairs: int) -> Tensor:
    return (torch.arange(pairs) < edges).long()


def _key(pairs: Tensor, nodes: int) -> Tensor:
    ordered = pairs.sort(1).values
    return ordered[:, 0] * nodes + ordered[:, 1]
