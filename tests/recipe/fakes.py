"""Components with signatures like real ones, and a finder that knows them; only their source is ever read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from kdcore.errors import Problem, did_you_mean
from kdcore.hookspecs import Kind
from kdcore.registry import Component, Registry

Scheduled = float


class Classify:
    fact_names: ClassVar[tuple[str, ...]] = ("classes",)

    def __init__(self, *, classes: int) -> None: ...


class Arrays:
    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels")

    def __init__(self, *, path: Path | None = None, batch_size: int = 8, labels: int | None = None) -> None: ...


class Net:
    def __init__(self, *, classes: int, channels: int, width: int = 4, norm: str = "batch") -> None: ...


def hub(*, name: str, pretrained: bool = False, folder: str | None = None, hub: str | None = None) -> Any: ...


def ensemble(*, of: list[str]) -> Any: ...


def ema(*, of: str, decay: float = 0.999) -> Any: ...


class CrossEntropy:
    needs: ClassVar[frozenset[str]] = frozenset({"student.logits"})

    def __init__(self, *, smoothing: Scheduled = 0.0) -> None: ...

    def forward(self, student: Any, teacher: Any, batch: Any) -> Any: ...


class KL:
    def __init__(self, *, temperature: Scheduled = 1.0, side: Literal["forward", "reverse"] = "forward") -> None: ...

    def forward(self, student: Any, teacher: Any, batch: Any) -> Any: ...


class MSE:
    def __init__(self) -> None: ...

    def forward(self, student: Any, teacher: Any, batch: Any) -> Any: ...


class Contrast:
    """Has a further role, which must be bound."""

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "reference.logits"})

    def __init__(self, *, bank: int) -> None: ...

    def forward(self, student: Any, teacher: Any, batch: Any, *, reference: Any) -> Any: ...


class Accuracy:
    takes: ClassVar[str] = "preds_target"

    def __init__(self, *, top: int = 1) -> None: ...


class Agreement:
    takes: ClassVar[str] = "student_teacher"

    def __init__(self) -> None: ...


def adamw(groups: Any, *, lr: float = 1e-3, weight_decay: float = 0.01) -> Any: ...


def sgd(groups: Any, *, lr: float, momentum: float = 0.0) -> Any: ...


def linear(*, start: float = 0.0, end: float = 1.0, until: float = 1.0) -> Any: ...


def cosine(*, warmup: float = 0.0) -> Any: ...


def conv1x1(student: Any, teacher: Any, *, bias: bool = True) -> Any: ...


def lora(module: Any, *, rank: int) -> Any: ...


def per_class(groups: Any, *, classes: int) -> Any: ...


def head(module: Any, *, classes: int) -> Any: ...


def table(models: Any, data: Any, *, out: str) -> Any: ...


class Flip:
    def __init__(self, *, p: float = 0.5) -> None: ...


class Mixing:
    def __init__(self, *, classes: int) -> None: ...


class Attack:
    def __init__(self, *, radius: float) -> None: ...


def gpu(*, every: int = 50) -> Any: ...


def wandb(*, project: str = "kdcore", mode: str = "offline") -> Any: ...


def hf(uri: str) -> Any: ...


class Computed:
    """What it needs cannot be told from the source."""

    needs = frozenset(f"{role}.logits" for role in ("student", "teacher"))

    def __init__(self) -> None: ...


TARGETS: dict[tuple[Kind, str], Any] = {
    ("task", "classify"): Classify,
    ("data", "arrays"): Arrays,
    ("model", "net"): Net,
    ("model", "hub"): hub,
    ("model", "ensemble"): ensemble,
    ("model", "ema"): ema,
    ("loss", "cross_entropy"): CrossEntropy,
    ("loss", "kl"): KL,
    ("loss", "mse"): MSE,
    ("loss", "contrast"): Contrast,
    ("loss", "computed"): Computed,
    ("loss", "gone"): "no_such_package.losses:Gone",
    ("metric", "accuracy"): Accuracy,
    ("metric", "agreement"): Agreement,
    ("optimizer", "adamw"): adamw,
    ("optimizer", "sgd"): sgd,
    ("optimizer", "per_class"): per_class,
    ("schedule", "linear"): linear,
    ("schedule", "cosine"): cosine,
    ("projector", "conv1x1"): conv1x1,
    ("edit", "lora"): lora,
    ("edit", "head"): head,
    ("action", "table"): table,
    ("transform", "flip"): Flip,
    ("transform", "mixing"): Mixing,
    ("prepare", "attack"): Attack,
    ("callback", "gpu"): gpu,
    ("logger", "wandb"): wandb,
    ("weights", "hf"): hf,
}


class FakeFinder:
    """Finds the components above."""

    def __init__(self) -> None:
        self.registry = Registry()
        for (kind, name), target in TARGETS.items():
            lazy = target if isinstance(target, str) else f"{__name__}:{target.__name__}"
            self.registry.add("kdcore", kind, name, lazy)

    def find(self, kind: Kind, name: str) -> Component | Problem:
        found = self.registry.get(kind, name)
        return found or Problem(f"there is no {kind} `{name}`", did_you_mean(name, self.registry.names(kind)))

    def unmet(self, requirement: str) -> Problem | None:
        missing = "absent" in requirement
        return Problem(f"`{requirement}` is not installed", "pip install it", plugin=True) if missing else None
