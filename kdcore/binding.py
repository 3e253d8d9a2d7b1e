"""A loss in its slot: which models play its roles, which signals it reads, what joins their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import RunError
from kdcore.losses.base import Loss, Total
from kdcore.recipe.schema import Ref
from kdcore.schedules import Scheduled
from kdcore.signals import Batch, Signals
from kdcore.taps import resize_to

Projector = Callable[[torch.Size, torch.Size], nn.Module]


@dataclass(frozen=True)
class Read:
    """One signal a loss reads: it asks for ``name`` and gets ``source`` of the model that plays ``role``."""

    role: str
    name: str
    of: str
    source: str


class BoundLoss(nn.Module):
    """A loss, bound.

    Args:
        name: its key in the recipe: log name, override path and checkpoint prefix.
        loss: the loss itself.
        weight: a number or a schedule.
        roles: which model each role is, a tuple where the recipe gives a list.
        reads: what it reads; see :func:`reads_of`.
        resize: the side that is resized where spatial sizes differ.
        projector: makes a module from the student's to the teacher's shape, for a tap with ``project``.
        follows_batch: the batch alone may decide the count: nothing is rebound.
    """

    def __init__(
        self,
        name: str,
        loss: Loss,
        *,
        weight: Scheduled,
        roles: Mapping[str, Ref | tuple[Ref, ...]],
        reads: tuple[Read, ...],
        resize: str | None = None,
        projector: Projector | None = None,
        follows_batch: bool = True,
    ) -> None:
        super().__init__()
        self.name = name
        self.loss = loss
        self.weight = weight
        self.roles = dict(roles)
        self.reads = reads
        self.resize = resize
        self.follows_batch = follows_batch
        self.projectors = nn.ModuleDict()
        self._make_projector = projector

    @property
    def refs(self) -> set[Ref]:
        """Every model and view whose signals this loss reads."""
        return {ref for read in self.reads for ref in _refs(self.roles[read.of])}

    def setup(
        self, signals: Mapping[Ref, Signals], facts: Mapping[str, int], models: Callable[[str], nn.Module]
    ) -> None:
        """Size projectors and the loss's own parts from real signals.

        Raises:
            RunError: a signal it reads is not there, or a projector does not suit the shapes.
        """
        roles = self._gather(signals)
        if self._make_projector is not None:
            for name, ours in roles["student"].items():
                theirs = roles.get("teacher", {}).get(name)
                if theirs is None:
                    continue
                try:
                    self.projectors[_key(name)] = self._make_projector(ours.shape, theirs.shape)
                except ValueError as error:
                    raise RunError(f"loss `{self.name}`: {error}") from error
        self.loss.setup(self._bind(signals), facts, lambda role: models(_first(self.roles[role]).model))

    def forward(self, signals: Mapping[Ref, Signals], batch: Batch) -> dict[str, Total]:
        """The loss's totals under their log names: ``kd``, or ``kd.part`` where it returns several."""
        roles = self._bind(signals)
        student, teacher = roles.pop("student"), roles.pop("teacher", {})
        found = self.loss(student, teacher, batch, **roles)
        if isinstance(found, Total):
            return {self.name: found}
        return {f"{self.name}.{part}": total for part, total in found.items()}

    def count(self, batch: Batch) -> Tensor | None:
        """How many terms the batch will have, where the batch alone decides."""
        return self.loss.count(batch) if self.follows_batch else None

    def _gather(self, signals: Mapping[Ref, Signals]) -> dict[str, Any]:
        roles: dict[str, Any] = {}
        for read in self.reads:
            bound = self.roles[read.of]
            if isinstance(bound, tuple):
                into = roles.setdefault(read.role, tuple({} for _ in bound))
                for mine, ref in zip(into, bound, strict=True):
                    mine[read.name] = self._signal(signals, ref, read.source)
            else:
                roles.setdefault(read.role, {})[read.name] = self._signal(signals, bound, read.source)
        return roles

    def _signal(self, signals: Mapping[Ref, Signals], ref: Ref, source: str) -> Tensor:
        given = signals[ref]
        if source not in given:
            raise RunError(
                f"loss `{self.name}` reads `{source}` of model `{ref.model}`, which gives {', '.join(sorted(given))}"
            )
        return given[source]

    def _bind(self, signals: Mapping[Ref, Signals]) -> dict[str, Any]:
        roles = self._gather(signals)
        for role, bound in roles.items():
            if role != "student" and not self.loss.live:
                roles[role] = _detached(bound)
        student, teacher = roles["student"], roles.get("teacher")
        if self.resize is not None and isinstance(teacher, dict):
            self._resize(student, teacher)
        for name, projector in self.projectors.items():
            student[_name(name)] = projector(student[_name(name)])
        return roles

    def _resize(self, student: Signals, teacher: Signals) -> None:
        for name in student.keys() & teacher.keys():
            if student[name].ndim < 3 or student[name].shape[2:] == teacher[name].shape[2:]:
                continue
            if self.resize == "student":
                student[name] = resize_to(student[name], teacher[name].shape[2:])
            else:
                teacher[name] = resize_to(teacher[name], student[name].shape[2:])


def reads_of(
    loss: Loss, roles: Mapping[str, Ref | tuple[Ref, ...]], *, signal: str | None, read: Mapping[str, str]
) -> tuple[Read, ...]:
    """Work out what a loss reads: its ``needs``, rebound by ``at:``/``signal:`` and by ``read:``.

    Raises:
        RunError: ``read:`` binds something that the loss does not read or a role that has no model.
    """
    needs = sorted(loss.needs)
    for key in read:
        if key not in loss.needs:
            raise RunError(f"`read: {{{key}: ...}}` binds nothing: this loss reads {', '.join(needs)}")
    reads = []
    for need in needs:
        role, _, name = need.partition(".")
        source_role, source = role, (signal if signal is not None and name == loss.signal else name)
        if need in read:
            source_role, _, source = read[need].partition(".")
        if source_role not in roles:
            raise RunError(f"the loss needs a `{source_role}` and its slot binds none (bound: {', '.join(roles)})")
        reads.append(Read(role, name, source_role, source))
    return tuple(reads)


def _detached(bound: Any) -> Any:
    if isinstance(bound, tuple):
        return tuple(_detached(one) for one in bound)
    return {name: tensor.detach() for name, tensor in bound.items()}


def _refs(bound: Ref | tuple[Ref, ...]) -> tuple[Ref, ...]:
    return bound if isinstance(bound, tuple) else (bound,)


def _first(bound: Ref | tuple[Ref, ...]) -> Ref:
    return _refs(bound)[0]


# a ModuleDict key may hold no dot
def _key(name: str) -> str:
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
