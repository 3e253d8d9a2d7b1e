"""How often the net is right."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from kdcore.signals import IGNORE


class Accuracy(Metric):
    """The share of labelled positions whose label is among the ``top_k`` largest logits.

    In [0, 1], more is better. All positions count alike (micro average); a label of -100 does not count.
    NaN before anything labelled was seen.

    Args:
        top_k: how many guesses a position has.
        class_axis: where the classes are in the logits; filled in from the task.

    Raises:
        ValueError: ``top_k`` is below 1; labels do not fit the logits; fewer than ``top_k`` classes.
    """

    takes: ClassVar[str] = "preds_target"
    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    correct: Tensor
    total: Tensor

    def __init__(self, *, top_k: int = 1, class_axis: int = -1) -> None:
        super().__init__()
        if top_k < 1:
            raise ValueError(f"top_k={top_k} is below 1: it is how many guesses a position has")
        self.top_k, self.class_axis = top_k, class_axis
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: logits (N, C), (N, T, C) or (N, C, H, W), and integer labels without the class axis."""
        labelled = target != IGNORE
        self.correct = self.correct + (self._hits(preds, target) & labelled).sum()
        self.total = self.total + labelled.sum()

    def compute(self) -> Tensor:
        return self.correct / self.total

    def scores(self, preds: Tensor, target: Tensor) -> Tensor:
        """Each sample's own accuracy, for paired tests between two nets; keeps no state.

        Shape: as in :meth:`update` -> (N,) float32: 0 or 1, or the share of a sample's labelled positions that are
        right; NaN for a sample without a label.
        """
        labelled = (target != IGNORE).reshape(len(target), -1)
        hits = self._hits(preds, target).reshape(len(target), -1) & labelled
        return hits.sum(1) / labelled.sum(1)

    def _hits(self, preds: Tensor, target: Tensor) -> Tensor:
        check_labels(preds, target, self.class_axis)
        if self.top_k == 1:
            return preds.argmax(self.class_axis) == target
        classes = preds.shape[self.class_axis]
        if self.top_k > classes:
            raise ValueError(f"top_k={self.top_k}, but the logits of shape {tuple(preds.shape)} hold {classes} classes")
        best = preds.topk(self.top_k, self.class_axis, sorted=False).indices
        return (best == target.unsqueeze(self.class_axis)).any(self.class_axis)


def check_labels(preds: Tensor, target: Tensor, class_axis: int) -> None:
    """See that there is one label per position, before broadcasting makes something up.

    Raises:
        ValueError: ``target`` has not the shape of ``preds`` without the class axis.
    """
    positions = list(preds.shape)
    del positions[class_axis]
    if list(target.shape) != positions:
        raise ValueError(
            f"labels have shape {tuple(target.shape)}, but logits of shape {tuple(preds.shape)} with classes at axis "
            f"{class_axis} take {tuple(positions)}"
        )
