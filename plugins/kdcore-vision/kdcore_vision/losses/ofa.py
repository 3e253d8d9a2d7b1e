"""OFA-KD: the student's stages are taught in logits, which all architectures have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from kdcore import Loss, Total
from kdcore.losses.base import masked_count, masked_total
from kdcore.losses.functional import hide
from kdcore.schedules import Scheduled
from kdcore.signals import IGNORE, Batch, Signals
from torch import Tensor, nn
from torch.nn.functional import one_hot

HEADS = 4
"""Attention heads of a token exit, where they divide its channels."""


class ExitHeads(Loss):
    """``-sum_c ((p_c + y_c)^gamma - y_c) log q_c`` for the student's logits and for those of an exit at every stage.

    p and q are softmax(teacher / T) and softmax(student / T), y the label as one-hot (all 0 where there is none). Each
    activation of the tap gets an exit of its own, trained with the student and never shipped: a map (N, C, H, W) goes
    through depthwise separable convolutions of stride 2 down to the last stage's size, tokens (N, T, C) through one
    attention block; then the mean over positions and a linear layer.

    **Shape**: ``student.feature@0``, ... maps (N, C, H, W) or tokens (N, T, C); ``student.logits`` and
    ``teacher.logits`` (N, classes).

    **Reduction**: one total an exit (``exit0``, ...) and one of the logits (``logits``), each counting the positions
    that the mask keeps, labelled or not.

    Args:
        gamma: above 1 it stresses the label's class where the teacher is sure of it; 1, the default, leaves the plain
            cross-entropy with the teacher. A schedule is possible.
        temperature: T.

    Raises:
        ValueError: ``gamma`` or ``temperature`` is not above 0; the labels are not those of classes (N,); an activation
            has other axes.

    **Paper**: Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation,
    2023 (arXiv 2310.19444).
    **Deviation**: written as the authors published it in code: without the label's own cross-entropy, which a recipe
    adds with ``cross_entropy``, and with the power on all classes; the paper raises that of the label alone. Exits
    normalise over groups of channels, not over the batch, so that a batch of one is possible.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "student.logits", "teacher.logits"})
    signal: ClassVar[str] = "feature"
    joint: ClassVar[bool] = True

    def __init__(self, *, gamma: Scheduled = 1.0, temperature: Scheduled = 1.0) -> None:
        super().__init__()
        for name, value in (("gamma", gamma), ("temperature", temperature)):
            if not callable(value) and not value > 0.0:
                raise ValueError(f"{name}={value} is not above 0")
        self.gamma, self.temperature = gamma, temperature
        self.exits = nn.ModuleDict()

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, Any], models: Callable[[str], nn.Module]
    ) -> None:
        features = {name: one for name, one in example["student"].items() if name.startswith("feature@")}
        smallest = min((one.shape[-1] for one in features.values() if one.ndim == 4), default=1)
        classes = example["teacher"]["logits"].shape[-1]
        for name, feature in features.items():
            self.exits[name.replace("feature@", "exit")] = _exit(feature, smallest, classes)

    def count(self, batch: Batch) -> Tensor | None:
        return masked_count(batch)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        given = {name: head(student[name.replace("exit", "feature@")].float()) for name, head in self.exits.items()}
        temperature, mask = self.now(self.temperature), batch.get("mask")
        target = _target(hide(teacher["logits"], mask).float() / temperature, batch.get("labels"), self.now(self.gamma))
        return {
            name: masked_total(
                -(target * torch.log_softmax(hide(logits, mask).float() / temperature, -1)).sum(-1), batch
            )
            for name, logits in {**given, "logits": student["logits"]}.items()
        }


def _target(teacher: Tensor, labels: Tensor | None, gamma: float | Tensor) -> Tensor:
    """``(p + y)^gamma - y``, (N, C)."""
    p = torch.softmax(teacher, -1)
    if labels is None:
        return p**gamma
    if labels.is_floating_point():
        y = labels
    elif labels.ndim == 1:
        y = one_hot(labels.clamp(min=0), p.shape[-1]).to(p.dtype) * (labels != IGNORE).unsqueeze(-1)
    else:
        raise ValueError(f"labels of shape {tuple(labels.shape)}: one class for each sample is wanted")
    return (p + y) ** gamma - y


def _exit(feature: Tensor, smallest: int, classes: int) -> nn.Module:
    if feature.ndim == 4:
        return MapExit(feature.shape[1], halvings=_halvings(feature.shape[-1], smallest), classes=classes)
    if feature.ndim == 3:
        return TokenExit(feature.shape[-1], classes=classes)
    raise ValueError(f"an exit reads maps (N, C, H, W) or tokens (N, T, C), the tap gives {tuple(feature.shape)}")


def _halvings(width: int, smallest: int) -> int:
    """How often a map is halved until it is as small as the last."""
    count = 0
    while width > smallest:
        width, count = (width + 1) // 2, count + 1
    return count


class MapExit(nn.Module):
    """Maps (N, C, H, W) to logits (N, classes): a depthwise separable convolution for every halving."""

    def __init__(self, channels: int, *, halvings: int, classes: int) -> None:
        super().__init__()
        self.down = nn.Sequential(*(_separable(channels * 2**i) for i in range(halvings)))
        self.head = nn.Linear(channels * 2**halvings, classes)

    def forward(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.head(self.down(feature).mean((-2, -1)))
        return logits


def _separable(channels: int) -> nn.Sequential:
    """Half the size, twice the channels."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        nn.GroupNorm(1, channels),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 1, bias=False),
        nn.GroupNorm(1, 2 * channels),
        nn.ReLU(),
    )


class TokenExit(nn.Module):
    """Tokens (N, T, C) to logits (N, classes): one attention block."""

    def __init__(self, channels: int, *, classes: int) -> None:
        super().__init__()
        heads = next(heads for heads in (HEADS, 2, 1) if channels % heads == 0)
        self.block = nn.TransformerEncoderLayer(
            channels, heads, dim_feedforward=4 * channels, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.block(feature)).mean(1))
        return logits
