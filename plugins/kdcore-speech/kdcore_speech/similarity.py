"""How much alike two nets hear: a metric of representations, whatever their width."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric


class CKA(Metric):
    """Linear centred kernel alignment of a student's hidden states and its teacher's, over all frames of the set.

    ``|X'Y|^2 / (|X'X| |Y'Y|)``, Frobenius norms, X (M, D) and Y (M, D') of mean 0. In [0, 1], 1 is best: one is the
    other, turned, scaled or shifted. A model without a teacher is held against itself and has 1. NaN before a frame was
    seen, or where one of them never changes.

    **Paper**: Kornblith et al., Similarity of Neural Network Representations Revisited, 2019 (arXiv 1905.00414),
    section 3.
    """

    takes: ClassVar[str] = "hidden_hidden"
    compares: ClassVar[bool] = True
    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    frames: Tensor
    x: Tensor
    y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("frames", torch.tensor(0), dist_reduce_fx="sum")
        # scalars until the first batch tells how wide they are
        for name in ("x", "y", "xx", "yy", "xy"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, ours: Tensor, theirs: Tensor) -> None:
        """Add a batch: (M, D) and (M, D')."""
        x, y = ours.double(), theirs.double()
        self.frames = self.frames + len(x)
        self.x, self.y = self.x + x.sum(0), self.y + y.sum(0)
        self.xx, self.yy, self.xy = self.xx + x.T @ x, self.yy + y.T @ y, self.xy + x.T @ y

    def compute(self) -> Tensor:
        x, y = self.x / self.frames, self.y / self.frames
        both, own, other = (
            (product - self.frames * (a.unsqueeze(-1) * b)).square().sum()
            for product, a, b in ((self.xy, x, y), (self.xx, x, x), (self.yy, y, y))
        )
        return (both / (own * other).sqrt()).float()
