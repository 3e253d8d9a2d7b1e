"""Full-frequency distillation: what neighbours have in common, and what sets them apart."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, check_temperature, masked_total
from kdcore.schedules import Scheduled
from kdcore.signals import Batch, Signals
from kdcore_graph.losses.edges import edges_of


class FFG2M(Loss):
    """``low``: KL(p(t_j) || p(s_i)); ``high``: KL(p(|t_i - t_j|) || p(|s_i - s_j|)); mean over the edges j -> i.

    p is a softmax over the classes at the temperature of its part, t and s are the logits of teacher and student. The
    low frequencies also take every node as a neighbour of itself.

    **Shape**: both ``logits`` (N, C); ``batch["edges"]`` int64 (2, E) among the N rows.

    **Reduction**: ``count`` of ``low`` is E + N, that of ``high`` is E.

    Args:
        low_temperature: of the class distributions; 1 gives the plain divergence.
        high_temperature: of the differences.

    Raises:
        ValueError: a temperature that is not above 0, logits of different shapes.
        KeyError: the batch has no ``edges``.

    **Paper**: Wu et al., Extracting Low-/High-Frequency Knowledge from Graph Neural Networks and Injecting it into
    MLPs, 2023 (arXiv 2305.10758).
    **Deviation**: the two parts are averaged over their own terms, where the paper divides both by the number of
    edges; the difference of two nodes is taken by its absolute value, element by element.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})
    relational: ClassVar[bool] = True

    def __init__(self, *, low_temperature: Scheduled = 1.0, high_temperature: Scheduled = 1.0) -> None:
        super().__init__()
        check_temperature(low_temperature)
        check_temperature(high_temperature)
        self.low_temperature, self.high_temperature = low_temperature, high_temperature

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        ours, theirs = student["logits"].float(), teacher["logits"].float()
        source, target = edges_of(batch, "ff_g2m")
        low = self.now(self.low_temperature)
        near = functional.kl(ours[target], theirs[source], temperature=low)
        own = functional.kl(ours, theirs, temperature=low)
        high = functional.kl(
            _difference(ours, source, target),
            _difference(theirs, source, target),
            temperature=self.now(self.high_temperature),
        )
        return {"low": masked_total(torch.cat([near, own]), {}), "high": masked_total(high, {})}


def _difference(logits: Tensor, source: Tensor, target: Tensor) -> Tensor:
    return (logits[target] - logits[source]).abs()
