"""Node classification: a GNN reads the graph, an MLP reads one node, and both answer about the same nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from kdcore.errors import RunError
from kdcore.task import Task, check_logits, compare_logits, normalise
from kdcore_graph.tasks.outputs import FrozenOutputs, from_features

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kdcore.signals import Batch, Signals


class NodeClassification(Task):
    """One label for each node.

    A batch holds ``features`` (N, F), ``id`` (N,), ``labels`` (N,) and the ``graph``; in training perhaps ``edges``
    among its rows. A net that ``takes_graph`` is called with features and edges, any other with features alone (and
    ``positions`` where the batch has them). Both return logits (N, classes), or a dictionary of signals with
    ``logits`` among them. A GNN in training mode sees the batch's own edges. In eval mode it sees the whole graph; a
    frozen one is run on it once in a stage.

    Args:
        classes: number of classes.

    Raises:
        ValueError: fewer than two classes.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "classes", "features", "nodes", "positions", "feature_mean", "feature_std", "columns",
    )  # fmt: skip
    primary: ClassVar[tuple[str, str]] = ("accuracy", "max")
    class_axis: ClassVar[int] = -1

    def __init__(self, *, classes: int) -> None:
        if classes < 2:
            raise ValueError(f"classes={classes}: there must be at least two to tell apart")
        self.facts = {"classes": classes}
        self._outputs = FrozenOutputs()

    def signals(self, model: nn.Module, batch: Batch, others: Mapping[str, Signals]) -> Signals:
        """``logits`` (N, classes) and whatever else the net gives.

        Raises:
            KeyError: the batch lacks what the net reads.
            ValueError: the net does not return logits of this shape.
        """
        if "features" not in batch:
            raise KeyError(f"the task reads `features`, the batch holds: {', '.join(sorted(batch))}")
        if getattr(model, "takes_graph", False):
            signals = self._from_graph(model, batch)
        else:
            signals = from_features(model, batch, batch["features"])
            if "noisy" in batch and not model.training:
                signals["noisy"] = from_features(model, batch, batch["noisy"])["logits"]
        check_logits(signals.get("logits"), self.facts["classes"], ndim=2, wanted="this task takes (N, {classes})")
        return signals

    def _from_graph(self, model: nn.Module, batch: Batch) -> Signals:
        if model.training or "graph" not in batch:
            if "edges" not in batch:
                raise KeyError(
                    "a GNN is trained on batches with `edges`: leave out `data.batch_size`, or add `data.fanout`"
                )
            found = model(normalise(model, batch["features"]), batch["edges"])
            return dict(found)
        return self._outputs.rows(model, batch["graph"], batch["id"], unseen="unseen" in batch)

    def observe(self, student: Signals, teachers: Mapping[str, Signals], batch: Batch) -> dict[str, tuple[Any, ...]]:
        """``preds_target``: (logits, labels); ``student_teacher``: both logits, with a teacher; ``noisy``: (logits
        under noise, labels); ``preds_target_unseen``: (logits, labels, whether the node was unseen)."""
        observed = compare_logits(student, teachers, batch)
        if "noisy" in student:
            observed["noisy"] = (student["noisy"], batch["labels"])
        unseen = batch.get("unseen")
        observed["preds_target_unseen"] = (
            student["logits"],
            batch["labels"],
            torch.zeros_like(batch["labels"], dtype=torch.bool) if unseen is None else unseen,
        )
        return observed

    def example(self, n: int) -> Batch:
        """``n`` nodes in a ring with features in [0, 1), always the same; labels all 0.

        Raises:
            ValueError: the facts do not tell how many features there are.
        """
        if "features" not in self.facts:
            raise ValueError(f"an example needs the fact `features`; known are: {', '.join(sorted(self.facts))}")
        generator = torch.Generator().manual_seed(0)
        ring = torch.arange(n)
        batch = {
            "features": torch.rand(n, self.facts["features"], generator=generator),
            "labels": torch.zeros(n, dtype=torch.int64),
            "id": ring,
            "edges": torch.stack([ring, (ring + 1) % n]),
        }
        if "positions" in self.facts:
            batch["positions"] = torch.rand(n, self.facts["positions"], generator=generator)
        return batch

    def chance(self) -> float:
        """1 / classes."""
        classes: int = self.facts["classes"]
        return 1 / classes

    def deploy(self, model: nn.Module) -> nn.Module:
        """``features`` as the data gives them (N, F), and ``positions`` where the net reads them -> probabilities.

        Scaling is inside. The model is not copied, and is put into eval mode.

        Raises:
            RunError: the net takes the whole graph.
        """
        if getattr(model, "takes_graph", False):
            raise RunError("a GNN needs its graph wherever it answers: export the student (`--model NAME`)")
        deployed = _WithPositions if getattr(model, "positions", 0) else _Deployed
        return deployed(model).eval()


class _Deployed(nn.Module):
    """Scaling, the net, softmax."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        return self.answer(normalise(self.model, features))

    def answer(self, *inputs: Tensor) -> Tensor:
        found = self.model(*inputs)
        logits: Tensor = found["logits"] if isinstance(found, dict) else found
        return logits.float().softmax(-1)


class _WithPositions(_Deployed):
    def forward(self, features: Tensor, positions: Tensor) -> Tensor:  # type: ignore[override]
        return self.answer(normalise(self.model, features), positions)
