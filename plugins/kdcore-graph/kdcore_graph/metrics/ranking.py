"""How high true links stand among pairs without one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from kdcore.signals import IGNORE


class _Scored(Metric):
    """Collects the score of the second class against the first, of positives and of negatives."""

    takes: ClassVar[str] = "preds_target"
    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    scores_: list[Tensor]
    labels_: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores_", [], dist_reduce_fx="cat")
        self.add_state("labels_", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: logits (N, 2) and labels (N,) of 0 and 1, -100 where there is none.

        Raises:
            ValueError: other than two classes.
        """
        if preds.ndim != 2 or preds.shape[1] != 2:
            shape = tuple(preds.shape)
            raise ValueError(
                f"{type(self).__name__.lower()} ranks by two classes, and the logits have the shape {shape}"
            )
        preds = preds.float()  # in half precision differences would tie
        self.scores_.append(preds[:, 1] - preds[:, 0])
        self.labels_.append(target)

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Scores of the positives and, sorted, of the negatives."""
        scores, labels = dim_zero_cat(self.scores_), dim_zero_cat(self.labels_)
        labels = torch.where(labels == IGNORE, -1, labels)
        return scores[labels == 1], scores[labels == 0].sort().values


class Hits(_Scored):
    """The share of true links that score above the k-th best of the pairs without one.

    In [0, 1], more is better. With fewer than k negatives all links count. NaN without a link.

    Args:
        k: how many pairs without a link may stand above.

    Raises:
        ValueError: ``k`` below 1, other than two classes.

    **Paper**: Hu et al., Open Graph Benchmark, 2020 (arXiv 2005.00687).
    """

    def __init__(self, *, k: int = 20) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k={k} is below 1")
        self.k = k

    def compute(self) -> Tensor:
        positive, negative = self._parts()
        if len(negative) < self.k:
            return torch.ones(()) if len(positive) else torch.full((), torch.nan)
        return (positive > negative[-self.k]).float().mean()


class MRR(_Scored):
    """The mean of 1 / rank over true links, each ranked among all pairs without one.

    In (0, 1], more is better. Of equal scores the link gets the middle of the best and the worst rank. NaN without a
    link.

    **Paper**: Hu et al., Open Graph Benchmark, 2020 (arXiv 2005.00687).
    **Deviation**: all links are ranked among the same negatives.
    """

    def compute(self) -> Tensor:
        positive, negative = self._parts()
        above = len(negative) - torch.searchsorted(negative, positive, right=True)
        not_below = len(negative) - torch.searchsorted(negative, positive)
        return (1.0 / (1.0 + 0.5 * (above + not_below))).mean()
