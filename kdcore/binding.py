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
from kdcore.signals import Batch, Signals, select_view
from kdcore.taps import resize_to
from kdcore.task import evaluating

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
        resize: the side that is resized where spatial sizes differ: all axes from the third on, or the second of
            (N, T, C) where the task puts classes last.
        projector: makes a module from the student's to the teacher's shape, for a tap with ``project``.
        scheduled: a parameter of the loss holds a schedule.
        follows_batch: the batch alone may decide the count: nothing is rebound.

    Raises:
        RunError: ``resize`` or a projector joins a student and a teacher, and one of them is a list.
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
        scheduled: bool = False,
        follows_batch: bool = True,
    ) -> None:
        super().__init__()
        self.name = name
        self.loss = loss
        self.weight = weight
        self.roles = dict(roles)
        self.reads = reads
        self.resize = resize
        self.scheduled = scheduled or callable(weight)
        self.follows_batch = follows_batch
        self.projectors = nn.ModuleDict()
        self._make_projector = projector
        for key, given in (("resize", resize), ("project", projector)):
            several = [role for role in ("student", "teacher") if isinstance(self.roles.get(role), tuple)]
            if given is not None and several:
                raise RunError(
                    f"loss `{name}`: `{key}` joins one student and one teacher, and its {several[0]} is a list: "
                    "give a loss to each"
                )

    @property
    def refs(self) -> set[Ref]:
        """Every model and view whose signals this loss reads."""
        return {ref for read in self.reads for ref in _refs(self.roles[read.of])}

    def setup(
        self, signals: Mapping[Ref, Signals], facts: Mapping[str, Any], models: Callable[[str], nn.Module]
    ) -> None:
        """Size projectors and the loss's own parts from real signals.

        Raises:
            RunError: a signal it reads is not there, or a projector does not suit the shapes.
        """
        roles = self._gather(signals)
        if self._make_projector is not None:
            ours, theirs = roles["student"], roles.get("teacher", {})
            for name in sorted(ours.keys() & theirs.keys()):
                try:
                    self.projectors[_key(name)] = self._make_projector(ours[name].shape, theirs[name].shape)
                except ValueError as error:
                    raise RunError(f"loss `{self.name}`: {error}") from error
        # an example says nothing about the data: no batch statistics from it
        with torch.no_grad(), evaluating(self.projectors.values()):
            example = self._bind(signals)
        try:
            self.loss.setup(example, facts, lambda role: models(self._model(role)))
        except (KeyError, ValueError) as error:
            raise self._refused(error) from error

    def _model(self, role: str) -> str:
        if role not in self.roles:
            raise RunError(f"loss `{self.name}` asks for the model of `{role}`; bound: {', '.join(self.roles)}")
        bound = _refs(self.roles[role])
        if len(bound) > 1:
            raise RunError(f"loss `{self.name}` asks for the model of `{role}`, which is a list of {len(bound)}")
        return bound[0].model

    def forward(self, signals: Mapping[Ref, Signals], batch: Batch) -> dict[str, Total]:
        """The loss's totals under their log names: ``kd``, or ``kd.part`` where it returns several.

        The loss is shown the batch as its student sees it.

        Raises:
            RunError: a signal it reads is not there, the loss refuses what it is given, or it returns something else
                than its contract says.
        """
        roles = self._bind(signals)
        student, teacher = roles.pop("student"), roles.pop("teacher", {})
        try:
            found = self.loss(student, teacher, self._seen(batch), **roles)
        except (KeyError, ValueError) as error:  # what a loss refuses; its docstring says which
            raise self._refused(error) from error
        if isinstance(found, Total):
            return {self.name: found}
        if not isinstance(found, dict):
            raise RunError(
                f"loss `{self.name}` returned a {type(found).__name__}: a loss returns Total(sum, count), or several "
                "of them by name"
            )
        return {f"{self.name}.{part}": total for part, total in found.items()}

    def _refused(self, error: Exception) -> RunError:
        return RunError(f"loss `{self.name}`: {error.args[0] if error.args else repr(error)}")

    def count(self, batch: Batch) -> Tensor | None:
        """How many terms the batch will have, where the batch alone decides.

        Raises:
            RunError: the batch has no such view as the student is to see.
        """
        return self.loss.count(self._seen(batch)) if self.follows_batch else None

    def _seen(self, batch: Batch) -> Batch:
        """The batch as the student sees it: labels, mask and weight are those of its view, where that has its own."""
        student = self.roles["student"]
        try:
            return select_view(batch, None if isinstance(student, tuple) else student.view)
        except KeyError as error:
            raise self._refused(error) from error

    def _gather(self, signals: Mapping[Ref, Signals]) -> dict[str, Any]:
        roles: dict[str, Any] = {"student": {}}
        for read in self.reads:
            bound = self.roles[read.of]
            if isinstance(bound, tuple):
                if not roles.get(read.role):
                    roles[read.role] = tuple({} for _ in bound)
                for mine, ref in zip(roles[read.role], bound, strict=True):
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
        if self.resize is not None and "teacher" in roles:
            self._resize(roles["student"], roles["teacher"])
        for key, projector in self.projectors.items():
            roles["student"][_name(key)] = _project(projector, roles["student"][_name(key)])
        return roles

    def _resize(self, student: Signals, teacher: Signals) -> None:
        """(N, C, ...) are resized behind the channels; of three axes the task says whether channels are last."""
        for name in student.keys() & teacher.keys():
            ours, theirs = student[name], teacher[name]
            if ours.ndim < 3 or ours.ndim != theirs.ndim:
                continue
            axis, end = (1, 2) if ours.ndim == 3 and self.loss.class_axis in (-1, 2) else (2, ours.ndim)
            if ours.shape[axis:end] == theirs.shape[axis:end]:
                continue
            if self.resize == "student":
                student[name] = resize_to(ours, theirs.shape[axis:end], axis=axis)
            else:
                teacher[name] = resize_to(theirs, ours.shape[axis:end], axis=axis)


def reads_of(
    loss: Loss, roles: Mapping[str, Ref | tuple[Ref, ...]], *, signal: str | None, read: Mapping[str, str]
) -> tuple[Read, ...]:
    """Work out what a loss reads: its ``needs``, rebound by ``at:``/``signal:`` and by ``read:``.

    Raises:
        RunError: ``at:``, ``signal:`` or ``read:`` binds something that the loss does not read, or a role that has
            no model.
    """
    needs = sorted(loss.needs)
    if signal is not None and all(need.partition(".")[2] != loss.signal for need in needs):
        raise RunError(
            f"`{signal}` cannot be bound: `at:` and `signal:` replace `{loss.signal}`, and this loss reads "
            f"{', '.join(needs)}; bind them one by one with `read:`"
        )
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


def _project(projector: nn.Module, x: Tensor) -> Tensor:
    # autocast is off in a loss: what it computed in half precision meets the projector's own type
    weight = next(projector.parameters(), None)
    projected: Tensor = projector(x if weight is None else x.to(weight.dtype))
    return projected


# a ModuleDict key may hold no dot
def _key(name: str) -> str:
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
