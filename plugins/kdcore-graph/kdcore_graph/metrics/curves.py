"""Areas and points of the precision-recall and the ROC curve."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from kdcore.signals import IGNORE


class _OneAgainstRest(Metric):
    """Collects probabilities and labels; with two classes the second is asked for, else each against the rest."""

    takes: ClassVar[str] = "preds_target"
    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    preds_: list[Tensor]
    target_: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("preds_", [], dist_reduce_fx="cat")
        self.add_state("target_", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: logits (N, C) and labels (N,), -100 where there is none."""
        self.preds_.append(preds.float().softmax(-1))
        self.target_.append(target)

    def compute(self) -> Tensor:
        """The mean over the classes that have a label, and that some labels are not of."""
        preds, target = dim_zero_cat(self.preds_), dim_zero_cat(self.target_)
        preds, target = preds[target != IGNORE], target[target != IGNORE]
        asked = [1] if preds.shape[1] == 2 else range(preds.shape[1])
        values = [
            self._value(preds[:, number], target == number)
            for number in asked
            if 0 < int((target == number).sum()) < len(target)
        ]
        return torch.stack(values).mean() if values else torch.full((), torch.nan)

    def _value(self, score: Tensor, is_it: Tensor) -> Tensor:
        raise NotImplementedError


def _curve(score: Tensor, is_it: Tensor) -> tuple[Tensor, Tensor]:
    """True and false positives above each distinct score, from the highest: float64 each."""
    order = score.argsort(descending=True, stable=True)
    score, hit = score[order], is_it[order].double()
    last = torch.ones_like(score, dtype=torch.bool)
    last[:-1] = score[1:] != score[:-1]
    true = hit.cumsum(0)
    false = (1 - hit).cumsum(0)
    return true[last], false[last]


class AveragePrecision(_OneAgainstRest):
    """The area under the precision-recall curve as a sum of steps, ``sum_k (R_k - R_{k-1}) P_k``.

    In [0, 1], more is better; with more than two classes the mean of each against the rest.
    """

    def _value(self, score: Tensor, is_it: Tensor) -> Tensor:
        true, false = _curve(score, is_it)
        recall = true / true[-1]
        return (recall.diff(prepend=recall.new_zeros(1)) * true / (true + false)).sum().float()


class AUROC(_OneAgainstRest):
    """The area under the ROC curve: how often a member of the class scores above another sample, ties counted half.

    In [0, 1], 0.5 is chance, more is better; with more than two classes the mean of each against the rest.
    """

    def _value(self, score: Tensor, is_it: Tensor) -> Tensor:
        true, false = _curve(score, is_it)
        zero = true.new_zeros(1)
        return torch.trapezoid(torch.cat([zero, true / true[-1]]), torch.cat([zero, false / false[-1]])).float()


class RecallAtPrecision(_OneAgainstRest):
    """The largest recall at which the precision is at least ``precision``; 0 where it never is.

    In [0, 1], more is better; with more than two classes the mean of each against the rest.

    Args:
        precision: how precise it has to be.

    Raises:
        ValueError: a precision outside (0, 1].
    """

    def __init__(self, *, precision: float = 0.9) -> None:
        super().__init__()
        if not 0 < precision <= 1:
            raise ValueError(f"precision={precision} is not in (0, 1]")
        self.precision = precision

    def _value(self, score: Tensor, is_it: Tensor) -> Tensor:
        true, false = _curve(score, is_it)
        enough = true / (true + false) >= self.precision
        return torch.where(enough, true / true[-1], 0.0).max().float()
