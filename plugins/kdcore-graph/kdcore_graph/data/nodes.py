"""Node classification on one graph: who is labelled, who is unseen, and how a batch is made."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from kdcore.data.arrays import Columns
from kdcore.data.base import Data, Split
from kdcore.data.loader import Loader
from kdcore.data.seeds import derive_seed
from kdcore.errors import RunError
from kdcore.signals import IGNORE
from kdcore_graph.data.batches import Neighbourhoods, Rows, Whole
from kdcore_graph.data.source import Source
from kdcore_graph.graph import Graph, GraphView, refuse_isolated
from kdcore_graph.positions import positions_of
from kdcore_graph.splits import NodeSplit, given_split, random_split, split_nodes

EVALUATION_BATCH = 65536
"""Nodes in a validation or test batch, where the recipe's batch is smaller: nothing is trained on them."""


class Nodes(Data):
    """The nodes of a graph. A batch holds ``id`` (the node's number), ``features``, ``labels``, and the ``graph``.

    Training gives the nodes known while training, with labels where the split allows it (-100 elsewhere): a teacher
    speaks about all of them. Without ``batch_size`` a batch is the whole of them, with the ``edges`` between them.

    Args:
        source: where the graph comes from: ``{use: graph.npz, path: cora.npz}``.
        setting: ``transductive``, ``inductive`` or ``production``, as GLNN defines them; see ``unseen``.
        split: ``random`` draws it by the recipe's seed, ``given`` takes the source's own.
        train_per_class: labelled nodes of each class to train on, with ``random``.
        val_per_class: nodes of each class to validate on, with ``random``.
        unseen: in the inductive and production settings, the share of the test nodes that is unseen while training.
        split_seed: draws the split by this seed instead of the recipe's: all seeds then share it.
        nodes: ``labelled`` trains on nodes with labels alone, which is all that a net without a teacher can use.
        batch_size: nodes in a training batch; none for all at once.
        steps: with the whole graph as a batch, the steps between two validations (an epoch).
        fanout: neighbours sampled in each hop around a batch, for GNNs on large graphs: ``[10, 10]``.
        positions: numbers that describe each node's place in the graph (NOSMOG); 0 for none.
        isolated: what to do with a graph that has nodes without an edge: ``refuse`` names them, ``keep`` takes them.
        scale: ``standard`` tells the nets mean and standard deviation of each feature over the observed nodes.
        class_weights: ``balanced`` weighs each label by the inverse of its class's share.
        noise: strength of the noise under which ``graph.noise_accuracy`` is measured, 0 for none: features become
            ``(1 - noise) x + noise e`` with e standard normal, as NOSMOG measures it.

    Raises:
        RunError: something is wrong with the graph or its split.
        ValueError: a number outside its range.

    **Paper**: Zhang et al., Graph-less Neural Networks, 2021 (arXiv 2110.08727), for settings and split.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "classes", "features", "nodes", "positions", "feature_mean", "feature_std", "columns",
    )  # fmt: skip

    def __init__(
        self,
        *,
        source: Data,
        setting: Literal["transductive", "inductive", "production"] = "transductive",
        split: Literal["random", "given"] = "random",
        train_per_class: int = 20,
        val_per_class: int = 30,
        unseen: float = 0.2,
        split_seed: int | None = None,
        nodes: Literal["observed", "labelled"] = "observed",
        batch_size: int | None = None,
        steps: int = 1,
        fanout: list[int] | None = None,
        positions: int = 0,
        isolated: Literal["refuse", "keep"] = "refuse",
        scale: Literal["none", "standard"] = "none",
        class_weights: Literal["none", "balanced"] = "none",
        noise: float = 0.0,
    ) -> None:
        super().__init__(batch_size=EVALUATION_BATCH if batch_size is None else batch_size)
        self.evaluation_batch_size = max(self.batch_size, EVALUATION_BATCH)
        if train_per_class < 1 or val_per_class < 1 or steps < 1:
            raise ValueError(
                f"train_per_class={train_per_class}, val_per_class={val_per_class}, steps={steps}: give 1 or more"
            )
        if fanout is not None and batch_size is None:
            raise ValueError(f"fanout={fanout} samples neighbours around a batch: give a `batch_size` too")
        if not 0 <= noise <= 1 or positions < 0:
            raise ValueError(f"noise={noise} is a share from 0 to 1, positions={positions} a number of 0 or more")
        if not isinstance(source, Source):
            raise ValueError(
                f"source={type(source).__name__} gives no graph: use one such as graph.npz or graph.digits"
            )
        self._source: Source = source
        self._setting, self._kind, self._per_class = setting, split, (train_per_class, val_per_class)
        self._unseen, self._split_seed, self._only_labelled = unseen, split_seed, nodes == "labelled"
        self._whole, self._steps, self._fanout = batch_size is None, steps, fanout
        self._positions, self._balanced, self._noise = positions, class_weights == "balanced", noise
        self._scaled, self._refuse = scale == "standard", isolated == "refuse"

    # ---- what is known of it

    @cached_property
    def graph(self) -> Graph:
        """The graph, checked."""
        graph = self._source.graph
        if self._refuse:
            refuse_isolated(graph, self._source.where)
        return graph

    @cached_property
    def parts(self) -> NodeSplit:
        """Which nodes are trained, validated and tested on, and which are unseen."""
        seed = self.seed if self._split_seed is None else self._split_seed
        graph = self.graph
        parts = given_split(graph) if self._kind == "given" else random_split(graph.labels, *self._per_class, seed)
        return split_nodes(parts, graph.nodes, cast("Any", self._setting), self._unseen, seed)

    @cached_property
    def view(self) -> GraphView:
        """The graph as tasks see it: while training without unseen nodes."""
        graph, unseen = self.graph, self.parts.unseen
        noisy = None
        if self._noise:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "graph.noise"))
            drawn = torch.randn(graph.features.shape, generator=generator)
            noisy = (1 - self._noise) * graph.features + self._noise * drawn
        if not unseen.any():
            return GraphView(graph.features, graph.edges, noisy=noisy)
        seen = graph.edges[:, ~unseen[graph.edges].any(0)]
        return GraphView(graph.features, seen, graph.edges, unseen, noisy)

    @cached_property
    def facts(self) -> dict[str, Any]:  # type: ignore[override]
        graph = self.graph
        facts: dict[str, Any] = {"classes": graph.classes, "features": graph.features.shape[1], "nodes": graph.nodes}
        if self._positions:
            facts["positions"] = self._positions
        if graph.columns is not None:
            facts["columns"] = list(graph.columns)
        if self._scaled:
            known = graph.features[self.parts.observed]
            spread = known.std(0)
            facts["feature_mean"] = known.mean(0).tolist()
            facts["feature_std"] = torch.where(spread > 0, spread, 1.0).tolist()
        return facts

    @property
    def class_names(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return self.graph.class_names

    @cached_property
    def _columns(self) -> Columns:
        graph = self.graph
        columns = {"id": torch.arange(graph.nodes), "features": graph.features, "labels": graph.labels}
        if self._positions:
            columns["positions"] = positions_of(self.view, self.parts.unseen, self._positions, self.seed)
        if self.view.noisy is not None:
            columns["noisy"] = self.view.noisy
        return Columns(columns)

    # ---- what is trained and tested on

    def split(self, name: Split) -> Rows | Neighbourhoods:
        if name == "train":
            rows = Rows(self._training(self._trained_on), self.view)
            if not self._fanout:
                return rows
            everything = self._training(torch.arange(self.graph.nodes))
            return Neighbourhoods(rows, everything, self._fanout, self.seed)
        nodes = self.parts.val if name == "val" else self.parts.test
        columns = self._columns.rows(nodes).columns
        if name == "test" and self.parts.unseen.any():
            columns["unseen"] = self.parts.unseen[nodes]
        return Rows(Columns(columns), self.view)

    @property
    def _trained_on(self) -> Tensor:
        return self.parts.train if self._only_labelled else self.parts.observed

    def _training(self, nodes: Tensor) -> Columns:
        """Columns of some nodes, with no label but those of the training nodes."""
        columns = {name: column[nodes] for name, column in self._columns.columns.items() if name != "noisy"}
        known = torch.zeros(self.graph.nodes, dtype=torch.bool)
        known[self.parts.train] = True
        columns["labels"] = torch.where(known[nodes], columns["labels"], IGNORE)
        if self._balanced:
            columns["weight"] = self._weights(columns["labels"])
        return Columns(columns)

    def _weights(self, labels: Tensor) -> Tensor:
        """Labelled nodes / (classes * nodes of this class); 1 without a label."""
        counts = torch.bincount(self.graph.labels[self.parts.train], minlength=self.graph.classes).float()
        weights = counts.sum() / (len(counts) * counts.clamp(min=1))
        return torch.where(labels == IGNORE, 1.0, weights[labels.clamp(min=0)])

    def train_dataloader(self) -> Loader:
        """Batches of nodes in a new order each epoch; or the whole of them, ``steps`` times.

        Raises:
            RunError: the whole graph as a batch cannot be divided over several devices.
        """
        if not self._whole:
            return super().train_dataloader()
        trainer = self.trainer
        if trainer is not None and trainer.world_size > 1:
            raise RunError(
                f"the whole graph is one batch and cannot be divided over {trainer.world_size} devices: "
                "set `data.batch_size`, or `trainer.devices: 1`"
            )
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        nodes = self._trained_on
        whole = Whole(Rows(self._training(nodes), self.view), self._between(nodes), self._steps, device)
        return Loader(whole, batch_size=1, seed=self.seed)

    def _between(self, nodes: Tensor) -> Tensor:
        """The known edges between some nodes, as rows among them."""
        place = torch.full((self.graph.nodes,), -1)
        place[nodes] = torch.arange(len(nodes))
        edges = place[self.view.edges]
        return edges[:, (edges >= 0).all(0)]
