"""Representational similarity: nodes that are alike to the teacher should be alike to the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from kdcore.losses.base import Loss, Total, masked_total
from kdcore.losses.functional import hide
from kdcore.signals import Batch, Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class RepresentationalSimilarity(Loss):
    """``||H H' - G G'||^2 / N^2`` with H = ReLU(W h) of the student's and G of the teacher's hidden features.

    One part of NOSMOG; the others are ``positions`` of the data and the ``graph.adversarial`` view.

    **Shape**: both ``hidden`` (N, D), of any two widths; W maps the student's to the teacher's width and is trained.

    **Reduction**: ``count`` is the number of rows that the mask keeps; the value is a mean over their pairs.

    Raises:
        ValueError: a mask that does not fit the rows.

    **Paper**: Tian et al., Learning MLPs on Graphs: A Unified View of Effectiveness, Robustness, and Efficiency
    (NOSMOG), 2022 (arXiv 2208.10010).
    **Deviation**: divided by the number of pairs, so that its size does not depend on the batch's. Computed from D x D
    products, ``||H'H||^2 - 2 ||H'G||^2 + ||G'G||^2`` in double precision, which is the same without an N x N matrix.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.hidden", "teacher.hidden"})
    signal: ClassVar[str] = "hidden"
    relational: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.map: nn.Module = nn.Identity()

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, int], models: Callable[[str], nn.Module]
    ) -> None:
        self.map = nn.Linear(example["student"]["hidden"].shape[1], example["teacher"]["hidden"].shape[1])

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        # before the map as well, whose weights would learn from what is masked
        hidden, theirs = (hide(x["hidden"], batch.get("mask")).float() for x in (student, teacher))
        ours = self.map(hidden).relu()
        ones = masked_total(
            torch.ones(len(ours), device=ours.device), {"mask": batch["mask"]} if "mask" in batch else {}
        )
        distance = gram_distance(hide(ours, batch.get("mask")).double(), theirs.double()).float()
        # the value times the count, over which the core divides
        return Total(distance / ones.count.clamp(min=1), ones.count)


def gram_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """``||H H' - G G'||^2`` (Frobenius) of (N, D) and (N, E)."""
    own = (ours.T @ ours).square().sum()
    cross = (ours.T @ theirs).square().sum()
    return own - 2 * cross + (theirs.T @ theirs).square().sum()
