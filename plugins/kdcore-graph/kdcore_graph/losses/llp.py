"""Relational distillation for links: the order and the distribution of each node's scores with others."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, check_temperature, masked_total
from kdcore.schedules import Scheduled
from kdcore.signals import Batch, Signals


class LLPRank(Loss):
    """``max(0, d - r (s_i - s_j))`` over pairs of contexts of a node, r the sign of ``t_i - t_j``; mean over pairs.

    s and t are the probabilities that student and teacher give the node's link with each context. Pairs that the
    teacher puts closer than d do not count.

    **Shape**: both ``contexts`` (A, C), the scores of C contexts of each of A nodes.

    **Reduction**: ``count`` is the number of pairs of contexts that the teacher puts further apart than d.

    Args:
        margin: d, the distance at which the order counts and that the student is to keep.

    Raises:
        ValueError: a margin below 0.

    **Paper**: Guo et al., Linkless Link Prediction via Relational Distillation, 2022 (arXiv 2210.05801).
    **Deviation**: in the paper a pair that does not count adds the constant d, which has no gradient.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.contexts", "teacher.contexts"})
    signal: ClassVar[str] = "contexts"

    def __init__(self, *, margin: float = 0.05) -> None:
        super().__init__()
        if margin < 0:
            raise ValueError(f"margin={margin} is below 0")
        self.margin = margin

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        ours, theirs = _differences(student["contexts"]), _differences(teacher["contexts"])
        order = theirs.sign() * (theirs.abs() > self.margin)
        return Total(((self.margin - order * ours).relu() * order.abs()).sum(), (order != 0).sum())


class LLPDistribution(Loss):
    """``T^2 KL(softmax(t / T) || softmax(s / T))`` over the contexts of each node; mean over nodes.

    **Shape**: both ``contexts`` (A, C), the scores (logits) of C contexts of each of A nodes.

    **Reduction**: ``count`` is A.

    Args:
        temperature: T.

    Raises:
        ValueError: a temperature that is not above 0.

    **Paper**: Guo et al., Linkless Link Prediction via Relational Distillation, 2022 (arXiv 2210.05801).
    **Deviation**: the softmax is over logits, which the paper does not say; the factor T^2 keeps the gradient's size.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.contexts", "teacher.contexts"})
    signal: ClassVar[str] = "contexts"

    def __init__(self, *, temperature: Scheduled = 1.0) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        temperature = self.now(self.temperature)
        return masked_total(
            functional.kl(student["contexts"], teacher["contexts"], temperature=temperature) * temperature**2, {}
        )


def _differences(scores: Tensor) -> Tensor:
    """``p_i - p_j`` for i < j: (A, C) -> (A, C (C - 1) / 2)."""
    probability = scores.float().sigmoid()
    first, second = torch.triu_indices(scores.shape[1], scores.shape[1], 1, device=scores.device)
    return probability[:, first] - probability[:, second]
