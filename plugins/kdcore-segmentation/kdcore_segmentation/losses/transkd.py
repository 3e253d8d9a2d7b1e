"""TransKD: patch embeddings and feature maps of all stages of a transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from kdcore.losses.base import Loss, Total, total_of
from kdcore.losses.functional import upcast
from kdcore.losses.maps import check_maps, through
from kdcore.signals import Batch, Signals
from torch import Tensor, nn

LEVELS = (4, 2, 1)
"""Sides to which maps are averaged for the hierarchical distance."""


class PatchEmbeddingAlignment(Loss):
    """``sum over stages m of w_m mean((s_m W_m - t_m)^2)``, mean over samples; W_m is a linear map that is trained.

    **Shape**: student and teacher ``feature@0``, ``feature@1``, ...: patch embeddings (N, T, C) of each stage, from a
    tap that matches them all. T is equal, C need not be.

    **Reduction**: ``count`` is the number of samples N; tokens and channels of a stage are averaged, stages are added.
    The batch's ``mask`` and ``weight`` are not read.

    Args:
        weights: w_m, one a stage from shallow to deep; 0.1, 0.1, 0.5, 1 as the authors train with.

    Raises:
        ValueError: a stage's embeddings are not (N, T, C), or of other samples or tokens; there are not as many stages
            as weights.

    **Paper**: Liu et al., TransKD: Transformer Knowledge Distillation for Efficient Semantic Segmentation, 2022
    (arXiv 2202.13393), patch embedding alignment.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "teacher.feature"})
    signal: ClassVar[str] = "feature"
    joint: ClassVar[bool] = True

    linears: nn.ModuleList

    def __init__(self, *, weights: tuple[float, ...] = (0.1, 0.1, 0.5, 1.0)) -> None:
        super().__init__()
        self.weights = weights

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, int], models: Callable[[str], nn.Module]
    ) -> None:
        stages = _stages(example["student"], example["teacher"])
        if len(stages) != len(self.weights):
            raise ValueError(f"the tap gives {len(stages)} stages, and there are {len(self.weights)} `weights`")
        for i, (s, t) in enumerate(stages):
            if s.ndim != 3 or s.ndim != t.ndim or s.shape[:2] != t.shape[:2]:
                raise ValueError(
                    f"stage {i}: the student's patch embeddings have shape {tuple(s.shape)}, the teacher's "
                    f"{tuple(t.shape)}; both are to be (N, T, C) with the same T"
                )
        self.linears = nn.ModuleList(nn.Linear(s.shape[2], t.shape[2]) for s, t in stages)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        stages = _stages(student, teacher)
        distances = [
            weight * F.mse_loss(through(linear, s), upcast(t))
            for weight, linear, (s, t) in zip(self.weights, self.linears, stages, strict=True)
        ]
        n = len(stages[0][0])
        return total_of(torch.stack(distances).sum() * n, n)


class CrossSelectiveFusion(Loss):
    """``sum over stages m of D(f_m, t_m)``, mean over samples; f_m is the student's stage m fused with those deeper.

    From the deepest stage upwards, each map of the student is brought to ``width`` channels and mixed with the fusion
    of the stages below it, enlarged: for each channel a softmax over the two says how much of either is taken, from
    what their sum is on average. A 3 x 3 convolution takes the fusion to the teacher's channels. All of it is trained
    with the student.

    D is the hierarchical distance: the mean squared error of the maps and of their averages to 4 x 4, 2 x 2 and 1 x 1
    (those that are smaller than the map), weighed 1, 1/2, 1/4, 1/8, divided by the sum of these.

    **Shape**: student and teacher ``feature@0``, ``feature@1``, ... from shallow to deep: maps (N, C, H, W) of each
    stage, from a tap that matches them all. H and W of a stage are equal, C need not be.

    **Reduction**: ``count`` is the number of samples N; positions and channels of a stage are averaged, stages are
    added. The batch's ``mask`` and ``weight`` are not read.

    Args:
        width: channels in which stages are fused; 64 as the authors train with.

    Raises:
        ValueError: ``width`` is below 1; the signals are no maps, or of other samples or spatial sizes.

    **Paper**: Liu et al., TransKD: Transformer Knowledge Distillation for Efficient Semantic Segmentation, 2022
    (arXiv 2202.13393), cross selective fusion; the distance is that of Chen et al., Distilling Knowledge via
    Knowledge Review, 2021 (arXiv 2104.09044).
    **Deviation**: what tells the shares is normalised over its channels, not over the batch, which may be one sample.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "teacher.feature"})
    signal: ClassVar[str] = "feature"
    joint: ClassVar[bool] = True

    enter: nn.ModuleList
    select: nn.ModuleList
    leave: nn.ModuleList

    def __init__(self, *, width: int = 64) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width={width}: stages are fused in at least one channel")
        self.width = width

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, int], models: Callable[[str], nn.Module]
    ) -> None:
        stages = _stages(example["student"], example["teacher"])
        for s, t in stages:
            check_maps(s, t, channels=False)
        self.enter = nn.ModuleList(_convolution(s.shape[1], self.width, 1) for s, _ in stages)
        self.select = nn.ModuleList(_Selection(self.width) for _ in stages[1:])
        self.leave = nn.ModuleList(_convolution(self.width, t.shape[1], 3) for _, t in stages)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        stages = _stages(student, teacher)
        distances = []
        fused: Tensor | None = None
        for i in reversed(range(len(stages))):
            s, t = stages[i]
            check_maps(s, t, channels=False)
            entered = through(self.enter[i], s)
            fused = entered if fused is None else self.select[i](entered, fused)
            distances.append(hierarchical(through(self.leave[i], fused), upcast(t)))
        n = len(stages[0][0])
        return total_of(torch.stack(distances).sum() * n, n)


class _Selection(nn.Module):
    """For each channel, how much of two maps is taken: a softmax over both, told by the average of their sum."""

    def __init__(self, width: int, *, reduction: int = 16, least: int = 32) -> None:
        super().__init__()
        hidden = max(width // reduction, least)
        self.squeeze = nn.Sequential(nn.Linear(width, hidden, bias=False), nn.LayerNorm(hidden), nn.ReLU())
        self.excite = nn.Linear(hidden, 2 * width)

    def forward(self, here: Tensor, deeper: Tensor) -> Tensor:
        deeper = F.interpolate(deeper, size=here.shape[2:], mode="nearest")
        squeezed = through(self.squeeze, (here + deeper).mean((2, 3)))
        scores = through(self.excite, squeezed)
        shares = scores.view(len(scores), 2, -1, 1, 1).softmax(1)  # (N, 2, C, 1, 1)
        return shares[:, 0] * here + shares[:, 1] * deeper


def hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of two maps (N, C, H, W) and of their averages to smaller ones; see the class that uses it."""
    added, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for side in LEVELS:
        if side < min(student.shape[2:]):
            weight /= 2
            weights += weight
            s, t = (F.adaptive_avg_pool2d(x, side) for x in (student, teacher))
            added = added + weight * F.mse_loss(s, t)
    return added / weights


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _stages(student: Signals, teacher: Signals) -> list[tuple[Tensor, Tensor]]:
    """``feature@0``, ``feature@1``, ... of both, in this order."""
    names = sorted(student, key=lambda name: int(name.partition("@")[2] or 0))
    return [(student[name], teacher[name]) for name in names]
