"""Link prediction: is there an edge between two nodes?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from kdcore.errors import RunError
from kdcore.task import Task
from kdcore_graph.tasks.outputs import FrozenOutputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kdcore.signals import Batch, Signals

CONTEXTS = 4
"""Contexts of a node in an example."""


class LinkPrediction(Task):
    """Two classes for each pair of nodes: no edge (0) and edge (1).

    A batch holds ``features`` (M, F) of ``nodes`` (M,), ``pairs`` (P, 2) of rows and ``labels`` (P,); in training
    perhaps ``edges`` among the rows and ``contexts`` (A, C, 2). Nets give ``logits`` (P, 2), of which the first is 0,
    so that cross-entropy is the binary one; beside these there is ``contexts`` (A, C), the score of each context. A
    frozen GNN embeds all nodes once in a stage.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "features", "nodes")
    primary: ClassVar[tuple[str, str]] = ("hits", "max")
    class_axis: ClassVar[int] = -1

    def __init__(self) -> None:
        self.facts = {"classes": 2}
        self._outputs = FrozenOutputs()

    def signals(self, model: nn.Module, batch: Batch, others: Mapping[str, Signals]) -> Signals:
        """``logits`` (P, 2), ``hidden`` (M, D) and, where the batch has them, ``contexts`` (A, C).

        Raises:
            KeyError: the batch lacks what the net reads.
        """
        if "pairs" not in batch:
            raise KeyError(f"the task reads `pairs`, the batch holds: {', '.join(sorted(batch))}")
        pairs, contexts = batch["pairs"], batch.get("contexts")
        asked = pairs if contexts is None else torch.cat([pairs, contexts.flatten(0, 1)])
        if not getattr(model, "takes_graph", False):
            found = model(batch["features"], asked)
        elif model.training or "graph" not in batch:
            if "edges" not in batch:
                raise KeyError("a GNN is trained on batches with `edges`, and this one has none")
            found = model(batch["features"], asked, batch["edges"])
        else:
            hidden = self._outputs.rows(model, batch["graph"], batch["nodes"], unseen=False)["hidden"]
            found = {"hidden": hidden, "logits": cast("Any", model).decode(hidden, asked)}
        logits: Tensor = found["logits"]
        signals = {"logits": logits[: len(pairs)], "hidden": found["hidden"]}
        if contexts is not None:
            signals["contexts"] = logits[len(pairs) :, 1].view(contexts.shape[:2])
        return signals

    def example(self, n: int) -> Batch:
        """``n`` pairs along a ring of as many nodes, with features in [0, 1), always the same.

        Raises:
            ValueError: the facts do not tell how many features there are.
        """
        if "features" not in self.facts:
            raise ValueError(f"an example needs the fact `features`; known are: {', '.join(sorted(self.facts))}")
        generator = torch.Generator().manual_seed(0)
        ring = torch.arange(n)
        pairs = torch.stack([ring, (ring + 1) % n], 1)
        features = torch.rand(n, self.facts["features"], generator=generator)
        return {
            "features": features,
            "source": features,
            "target": features[pairs[:, 1]],
            "pairs": pairs,
            "contexts": pairs.unsqueeze(1).repeat(1, CONTEXTS, 1),
            "labels": ring % 2,
            "id": ring,
            "nodes": ring,
            "edges": pairs.T.contiguous(),
        }

    def deploy(self, model: nn.Module) -> nn.Module:
        """``source`` and ``target``, the features (N, F) of two nodes -> the probability of an edge (N,).

        Raises:
            RunError: the net takes the whole graph.
        """
        if getattr(model, "takes_graph", False):
            raise RunError("a GNN needs its graph wherever it answers: export the student (`--model NAME`)")
        return _Deployed(model).eval()


class _Deployed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        ends = [self.model(features)["hidden"] for features in (source, target)]
        score: Tensor = self.model.get_submodule("decoder")(ends[0] * ends[1])
        return score.squeeze(-1).float().sigmoid()
