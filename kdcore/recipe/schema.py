"""What a recipe is once it has been read: plain, frozen dataclasses, every stage complete in itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kdcore.errors import Problem

SCHEMA = 1
"""The value of the key ``kdcore:`` that this version reads."""


@dataclass(frozen=True)
class Slot:
    """``{use: NAME, ...}``: a component and the keywords its factory is called with.

    A keyword annotated ``Scheduled`` or ``Data`` that holds ``{use: ...}`` arrives as a ``Nested`` slot.
    """

    path: str
    use: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Nested(Slot):
    """A slot inside another's arguments: a parameter annotated ``Scheduled`` or ``Data`` takes one."""

    kind: Literal["schedule", "data"] = "schedule"


@dataclass(frozen=True)
class DataSlot(Slot):
    """Data, with the keys that the core owns: what is done to training samples, whatever data gives them.

    Attributes:
        transform: a chain of transforms by name.
        views: by name, further transforms of what ``transform`` gives.
        variants: how many draws of each sample there are; 0 for a new one in every epoch.
        table: the stage whose table selects and completes the samples.
    """

    transform: dict[str, Slot] = field(default_factory=dict)
    views: dict[str, dict[str, Slot]] = field(default_factory=dict)
    variants: int = 0
    table: str | None = None

    @property
    def order(self) -> list[list[str]]:
        """The transforms' names, chain by chain: a digest of mappings does not tell their order, which counts."""
        return [list(chain) for chain in (self.transform, *self.views.values())]


@dataclass(frozen=True)
class ModelSlot(Slot):
    """A model, with the keys that the core owns."""

    weights: str | None = None
    partial: tuple[str, ...] = ()
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None
    compile: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    seed: int | None = None
    edits: tuple[Slot, ...] = ()


@dataclass(frozen=True)
class Ref:
    """A model by its name in the recipe, seen through a view: ``teacher@weak``."""

    model: str
    view: str | None = None


@dataclass(frozen=True)
class LossSlot(Slot):
    """A loss, bound to models and signals.

    Attributes:
        weight: a number, or the slot of a schedule.
        roles: which model each role is; a tuple where the recipe gives a list. ``student`` and ``teacher``
            default to the model being trained and the stage's first teacher, so they are always here.
        signal: the signal that replaces the loss's own (``tap.deep`` for ``at: deep``), or ``None``.
        read: ``student.logits`` -> ``student.exit1``: pairs bound one by one.
        resize: which side is resized to the other where spatial sizes differ.
    """

    weight: float | Slot = 1.0
    roles: dict[str, Ref | tuple[Ref, ...]] = field(default_factory=dict)
    signal: str | None = None
    read: dict[str, str] = field(default_factory=dict)
    resize: Literal["student", "teacher"] | None = None


@dataclass(frozen=True)
class Tap:
    """An activation of several nets under one name.

    Attributes:
        paths: model name -> path (``encoder.layer4``, ``neck.(0..2)``, ``block:in``, ``block/1``).
        project: the projector from the student's to the teacher's shape, or ``None``.
    """

    name: str
    path: str
    paths: dict[str, str] = field(default_factory=dict)
    project: Slot | None = None


@dataclass(frozen=True)
class Init:
    """Where a model of a stage gets its first weights: those of another model of the recipe.

    ``map`` is target prefix -> source prefix (``{layers.1: layers.4}``); empty means all.
    """

    source: str
    map: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cache:
    """Read a frozen teacher's signals from disk instead of running it."""

    of: str
    keep: tuple[str, ...] = ("logits",)
    topk: int | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"


@dataclass(frozen=True)
class Optimizer(Slot):
    """An optimizer; ``groups`` maps a parameter pattern to the settings that differ there."""

    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    schedule: Slot | None = None


@dataclass(frozen=True)
class Stage:
    """One stage, complete: what the recipe says at the top is already merged in.

    Exactly one of ``train`` and ``do`` is given. Losses and metrics that need a teacher are already left out
    of a stage without one, and named in ``left_out``.
    """

    name: str
    path: str
    task: Slot
    data: DataSlot
    train: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    do: Slot | None = None
    losses: dict[str, LossSlot] = field(default_factory=dict)
    taps: dict[str, Tap] = field(default_factory=dict)
    prepare: dict[str, Slot] = field(default_factory=dict)
    metrics: dict[str, Slot] = field(default_factory=dict)
    callbacks: dict[str, Slot] = field(default_factory=dict)
    optimizer: Optimizer = field(default_factory=lambda: Optimizer("optimizer", "adamw"))
    trainer: dict[str, Any] = field(default_factory=dict)
    init: dict[str, Init] = field(default_factory=dict)
    freeze: dict[str, tuple[str, ...]] = field(default_factory=dict)
    cache: Cache | None = None
    keep: Literal["best", "last"] = "best"
    once: bool = False
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A recipe, read, merged, resolved and checked.

    Attributes:
        source: the merged recipe before interpolations were resolved: what is stored and logged.
        files: the files it was read from; relative paths in slots are already made absolute against them.
        overrides: the command-line overrides, as typed.
        requires: what it says it needs (``kdcore>=0.1``, ``kdcore-detection``).
        warnings: what is odd but stops nothing.
    """

    name: str
    seed: int
    task: Slot
    data: DataSlot
    models: dict[str, ModelSlot]
    stages: dict[str, Stage]
    logger: Slot | None = None
    requires: tuple[str, ...] = ()
    source: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
