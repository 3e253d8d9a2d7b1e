"""Small components for recipes in tests, loaded as ``--plugin`` loads a file: they are ``local.*`` there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdcore.data.arrays import Columns
from kdcore.data.base import Data, Split
from kdcore.hookspecs import Add, hookimpl
from kdcore.losses.base import Loss, Total, masked_total
from kdcore.schedules import Progress, Schedule, Scheduled
from kdcore.signals import Batch, Signals

CLASSES, SIDE = 3, 4


class Views(Columns):
    """The same, with two more views: ``weak`` adds 0.1 to the image, ``strong`` turns it round."""

    def __getitems__(self, index: Any) -> Batch:
        batch = super().__getitems__(index)
        image = batch["image"]
        return {**batch, "views": {"weak": {"image": image + 0.1}, "strong": {"image": image.flip(-1)}}}


class Tiny(Data):
    """Images (N, 1, 4, 4) in memory; a class is the one of three pixels that is brightest, so it can be learnt.

    ``masked`` gives a ragged mask (on average half), ``own_views`` gives views.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width", "features")

    def __init__(self, *, batch_size: int = 16, n: int = 96, masked: bool = False, own_views: bool = False) -> None:
        super().__init__(batch_size=batch_size)
        sizes = {"image_height": SIDE, "image_width": SIDE, "features": SIDE * SIDE}
        self.facts = {"classes": CLASSES, "channels": 1, **sizes}
        generator = torch.Generator().manual_seed(1)
        image = torch.rand(n + 48, 1, SIDE, SIDE, generator=generator)
        columns = {"image": image, "labels": image.flatten(1)[:, :CLASSES].argmax(1), "id": torch.arange(n + 48)}
        if masked:
            columns["mask"] = torch.rand(n + 48, generator=generator) < 0.5
        everything, kind = Columns(columns), Views if own_views else Columns
        rows = {"train": torch.arange(n), "val": torch.arange(n, n + 48)}
        self._splits = {name: kind(everything.rows(index).columns) for name, index in rows.items()}

    def split(self, name: Split) -> Columns | None:
        return self._splits.get(name)


class Net(nn.Module):
    """Two stages of convolution, so that there is something to tap: ``stem`` (N, W, 4, 4), ``deep`` (N, 2W, H, H)."""

    def __init__(self, *, classes: int, channels: int, width: int = 2, stride: int = 1, norm: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=not norm), nn.BatchNorm2d(width) if norm else nn.Identity()
        )
        self.deep = nn.Conv2d(width, 2 * width, 3, stride=stride, padding=1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.deep(torch.relu(self.stem(image)))).mean((2, 3)))
        return logits


class Reference(Loss):
    """Twice as near to the teacher as to a third model."""

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits", "reference.logits"})

    def forward(  # type: ignore[override]
        self, student: Signals, teacher: Signals, batch: Batch, *, reference: Signals
    ) -> Total:
        target = (2 * teacher["logits"] + reference["logits"]) / 3
        return masked_total((student["logits"] - target).square().sum(-1), batch)


class Crowd(Loss):
    """The distance to the mean of several teachers, which a list binds."""

    def forward(self, student: Signals, teacher: Any, batch: Batch, **roles: Any) -> Total:
        target = torch.stack([one["logits"] for one in teacher]).mean(0)
        return masked_total((student["logits"] - target).square().sum(-1), batch)


class Parts(Loss):
    """Two totals by name."""

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits"})

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        logits = student["logits"].float()
        one = torch.tensor(logits.numel())
        return {"small": Total(logits.square().sum() * 1e-3, one), "large": Total(logits.square().sum(), one)}


class Witness(Loss):
    """Remembers what it was given; its value is the squared distance times a scheduled scale."""

    seen: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, *, scale: Scheduled = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        ours, theirs = student["logits"], teacher["logits"]
        self.seen.append((ours.dtype, theirs.dtype, torch.is_autocast_enabled("cpu"), self.now(self.scale)))
        return masked_total((ours.float() - theirs.float()).square().sum(-1) * self.now(self.scale), batch)


class Secretive(Witness):
    """The same, with its schedule under a name of its own."""

    def __init__(self, *, scale: Scheduled = 1.0) -> None:
        super().__init__()
        self._hidden = scale

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        self.scale = self.now(self._hidden)  # type: ignore[assignment]
        return super().forward(student, teacher, batch, **roles)


class Overflow(Loss):
    """Finite until someone sets ``armed``; infinite then, with a gradient that is so too."""

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits"})
    armed = False

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        terms = student["logits"].float().square().sum(-1)
        return masked_total((terms + 1.0) * 1e38 * 1e3 if type(self).armed else terms, batch)


class Brighter(nn.Module):
    """Prepares a batch: adds to the image, and remembers which model it could reach."""

    def __init__(self, *, by: float, factor: float = 1.0, model: str = "student") -> None:
        super().__init__()
        self.by, self.factor, self.model = by, factor, model
        self.reached: nn.Module | None = None

    def forward(self, batch: Batch, models: Any) -> Batch:
        self.reached = models(self.model)
        return {**batch, "image": batch["image"] * self.factor + self.by}


class Pyramid(Loss):
    """The distance at all activations of a tap, the n-th counted n times."""

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "teacher.feature"})
    signal: ClassVar[str] = "feature"
    joint: ClassVar[bool] = True

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        terms = [(int(n.partition("@")[2]) + 1) * (student[n] - teacher[n]).square().mean() for n in sorted(student)]
        return Total(torch.stack(terms).sum(), torch.tensor(1))


class Shift:
    """A transform: adds to the image what its seed draws."""

    def __init__(self, *, by: float = 1.0) -> None:
        self.by = by

    def __call__(self, sample: dict[str, Any], seed: int) -> dict[str, Any]:
        drawn = torch.rand((), generator=torch.Generator().manual_seed(seed))
        return {**sample, "image": sample["image"] + self.by * drawn}


class Memory(nn.Module):
    """A schedule with a state of its own: half the value at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.ones(()))
        self.value: Tensor

    def forward(self, progress: Progress) -> Tensor:
        self.value = self.value / 2
        return self.value


def memory() -> Schedule:
    """A schedule that is a module."""
    return Memory()


def balance(*, loss: str, other: str) -> Schedule:
    """The running mean of one loss over that of another; 1 until both are known. Stays on the device."""

    def at(progress: Progress) -> float | Tensor:
        losses: Mapping[str, Tensor] = progress.losses
        if loss not in losses or other not in losses:
            return 1.0
        return losses[loss] / losses[other].clamp(min=1e-3)

    return at


def plain_sgd(groups: list[dict[str, Any]], *, lr: float) -> torch.optim.Optimizer:
    """An optimizer that knows nothing of ``found_inf``, as most of third parties."""
    return torch.optim.SGD(groups, lr=lr, fused=False, foreach=False)


class Twice(torch.optim.SGD):
    """Makes two updates of each batch."""

    again: Any = None

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        return super().step(self.again or closure)


def twice(groups: list[dict[str, Any]], *, lr: float, fused: bool = True) -> torch.optim.Optimizer:
    return Twice(groups, lr=lr, fused=fused)


def widen_head(module: nn.Module, *, scale: float) -> nn.Module:
    """An edit: multiplies the head's weights."""
    with torch.no_grad():
        module.head.weight.mul_(scale)  # type: ignore[union-attr]
    return module


def forget(module: nn.Module) -> None:
    """An edit that does not give the module back."""


@hookimpl
def kdcore_register(add: Add) -> None:
    add("data", "tiny", Tiny)
    add("model", "net", Net)
    add("transform", "shift", Shift)
    for loss in (Reference, Crowd, Parts, Witness, Secretive, Overflow, Pyramid):
        add("loss", loss.__name__.lower(), loss)
    add("prepare", "brighter", Brighter)
    add("schedule", "memory", memory)
    add("schedule", "balance", balance)
    add("optimizer", "plain_sgd", plain_sgd)
    add("optimizer", "twice", twice)
    add("edit", "widen_head", widen_head)
    add("edit", "forget", forget)
