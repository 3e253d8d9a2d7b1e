"""A task on vectors, small nets and losses, for the tests of the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdcore.binding import BoundLoss, Projector, reads_of
from kdcore.cast import Cast
from kdcore.losses.base import Loss, Total, masked_total
from kdcore.recipe.schema import Ref
from kdcore.schedules import Scheduled
from kdcore.signals import Batch, Signals
from kdcore.task import Task

FEATURES, CLASSES = 6, 3


class Vectors(Task):
    """``x`` (N, 6) -> ``logits`` (N, 3); remembers every call. A net may give a dict of signals itself."""

    primary: ClassVar[tuple[str, str]] = ("accuracy", "max")

    def __init__(self) -> None:
        self.facts = {"classes": CLASSES}
        self.calls: list[tuple[nn.Module, bool, tuple[str, ...], Tensor]] = []

    def signals(self, model: nn.Module, batch: Batch, others: Mapping[str, Signals]) -> Signals:
        self.calls.append((model, torch.is_grad_enabled(), tuple(others), batch["x"]))
        given = model(batch["x"])
        return dict(given) if isinstance(given, dict) else {"logits": given}

    def observe(self, student: Signals, teachers: Mapping[str, Signals], batch: Batch) -> dict[str, tuple[Any, ...]]:
        observed: dict[str, tuple[Any, ...]] = {}
        if "labels" in batch:
            observed["preds_target"] = (student["logits"], batch["labels"])
        for signals in teachers.values():
            observed["student_teacher"] = (student["logits"], signals["logits"])
            break
        return observed

    def chance(self) -> float | None:
        return 1 / CLASSES


class Squares(Loss):
    """Mean over the positions of the squared distance, in the signals' own precision."""

    def count(self, batch: Batch) -> Tensor | None:
        return batch["mask"].sum() if "mask" in batch else None

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        terms = (student["logits"] - teacher["logits"]).square().sum(-1)
        mask = batch.get("mask")
        if mask is None:
            return Total(terms.sum(), torch.tensor(terms.numel()))
        return Total(torch.where(mask, terms, 0.0).sum(), mask.sum())


class Labels(Loss):
    """Cross-entropy with the labels."""

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits"})

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        terms = nn.functional.cross_entropy(student["logits"], batch["labels"], reduction="none")
        return masked_total(terms, batch)


def net(seed: int = 0, *, width: int = 8, norm: bool = False) -> nn.Sequential:
    """``0`` Linear, ``1`` BatchNorm or Identity, ``2`` ReLU, ``3`` Linear."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(FEATURES, width),
            nn.BatchNorm1d(width) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Linear(width, CLASSES),
        )


def batch_of(n: int = 16, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, FEATURES, generator=generator)
    return {"id": torch.arange(n), "x": x, "labels": torch.randint(0, CLASSES, (n,), generator=generator)}


def bind(
    loss: Loss,
    *,
    name: str = "kd",
    roles: Mapping[str, Ref | tuple[Ref, ...]] | None = None,
    signal: str | None = None,
    read: Mapping[str, str] | None = None,
    weight: Scheduled = 1.0,
    resize: str | None = None,
    projector: Projector | None = None,
) -> BoundLoss:
    """A loss in a slot, by default between the models ``student`` and ``teacher``."""
    given = {"student": Ref("student"), "teacher": Ref("teacher")} if roles is None else roles
    return BoundLoss(
        name,
        loss,
        weight=weight,
        roles=given,
        reads=reads_of(loss, given, signal=signal, read=read or {}),
        resize=resize,
        projector=projector,
        follows_batch=signal is None and not read,
    )


def ready(cast: Cast, losses: list[BoundLoss]) -> list[BoundLoss]:
    """Set up losses from the signals of a small batch, as the builder does."""
    models: Callable[[str], nn.Module] = cast.module
    with torch.no_grad():
        signals = cast.run(cast.order({ref for loss in losses for ref in loss.refs}), batch_of(4))
    for loss in losses:
        loss.setup(signals, cast.task.facts, models)
    return losses
