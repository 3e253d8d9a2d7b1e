"""A loss and the signals it is tried on: fresh instances, calls as the core makes them, and variations of the input."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.losses.base import Loss
from kdcore.signals import Batch
from kdcore.testing.answer import Answer

LENGTHS = ".lengths"


@dataclass(frozen=True)
class Case:
    """One situation.

    Attributes:
        make: gives a fresh loss.
        roles: ``student``, ``teacher`` and further ones: signals by name, or a tuple of such where a role is a list.
        batch: as the data gives it.
        models: the modules behind the roles, for ``setup``; each loss gets copies, all but the student frozen.
        facts: of the task.
        class_axis: of the task.
        example: the roles that ``setup`` sees, also where ``roles`` are a variation.
    """

    make: Callable[[], Loss]
    roles: Mapping[str, Any]
    batch: Batch
    models: Mapping[str, nn.Module] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    class_axis: int = -1
    example: Mapping[str, Any] = field(default_factory=dict)

    # ---- calling

    def build(self) -> tuple[Loss, dict[str, nn.Module]]:
        """A loss that is set up, in train mode, always with the same random numbers; and the models it was given."""
        models = {
            role: copy.deepcopy(model).eval().requires_grad_(role == "student") for role, model in self.models.items()
        }
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            loss = self.make()
            loss.class_axis = self.class_axis
            example = read_by(loss, self.example or self.roles)
            loss.setup(example, self.facts, models.__getitem__)
        return loss.train(), models

    def call(self, loss: Loss, forward: Callable[..., Any] | None = None) -> tuple[Any, dict[str, Tensor]]:
        """What ``forward`` returns, with the leaves that have a gradient: the student's, and a live teacher's.

        As in a step of the core, a loss gets the signals that it ``needs`` and no others, those of other roles without
        a graph.
        """
        leaves: dict[str, Tensor] = {}

        def given(path: str, x: Tensor) -> Tensor:
            mine = x.detach().clone()
            if mine.is_floating_point() and (path.startswith("student") or loss.live):
                leaves[path] = mine.requires_grad_()
            return mine

        roles = {role: _mapped(value, given, role) for role, value in read_by(loss, self.roles).items()}
        student, teacher = roles.pop("student"), roles.pop("teacher", {})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            batch = _mapped(self.batch, lambda _, x: x.clone(), "batch")
            found = (loss if forward is None else forward)(student, teacher, batch, **roles)
        return found, leaves

    def answer(self, wrap: Callable[[Loss], Callable[..., Any]] | None = None) -> Answer:
        """The totals and the gradients of a fresh loss; ``wrap`` makes of it what is called in its place."""
        loss, models = self.build()
        found, leaves = self.call(loss, None if wrap is None else wrap(loss))
        learning = {"loss": loss, **{role: model for role, model in models.items() if role == "student"}}
        weights = {f"{path}.{name}": p for path, part in learning.items() for name, p in part.named_parameters()}
        totals = found if isinstance(found, dict) else {"": found}
        whole = torch.stack([total.sum for total in totals.values()]).sum()
        every = {**leaves, **{path: p for path, p in weights.items() if p.requires_grad}}
        gradients = dict(zip(every, torch.autograd.grad(whole, list(every.values()), allow_unused=True), strict=True))
        filled = {path: torch.zeros_like(every[path]) if g is None else g for path, g in gradients.items()}
        split = ({path: g for path, g in filled.items() if (path in leaves) == signal} for signal in (True, False))
        return Answer(totals, *split)

    # ---- variations

    def mapped(self, change: Callable[[str, Tensor], Tensor]) -> Case:
        """Every tensor changed by a function of its path (``student.logits``, ``batch.labels``) and itself."""
        roles = {role: _mapped(value, change, role) for role, value in self.roles.items()}
        return replace(self, roles=roles, batch=_mapped(self.batch, change, "batch"))

    def with_batch(self, **entries: Any) -> Case:
        """Other entries in the batch; ``None`` takes one out."""
        batch = {key: value for key, value in {**self.batch, **entries}.items() if value is not None}
        return replace(self, batch=batch)

    @property
    def samples(self) -> int:
        """How many samples there are: as many as the student's first signal is long."""
        student = self.roles["student"]
        signals = student[0] if isinstance(student, tuple) else student
        for name in (type(self.make()).signal, *signals):
            if name + LENGTHS in signals:
                return len(signals[name + LENGTHS])
            if name in signals:
                return len(signals[name])
        raise ValueError("the student has no signal")

    def rows(self, at: Tensor) -> Case:
        """Some of the samples, in this order. What is as long as there are samples has one row for each."""
        picked = {role: _rows(value, at, self.samples) for role, value in self.roles.items()}
        return replace(self, roles=picked, batch=_rows(self.batch, at, self.samples))


def read_by(loss: Loss, roles: Mapping[str, Any]) -> dict[str, Any]:
    """The signals that a loss ``needs``, and nothing else."""

    def wanted(role: str, signals: Mapping[str, Any]) -> dict[str, Any]:
        return {name: x for name, x in signals.items() if f"{role}.{_bare(name, loss)}" in loss.needs}

    found: dict[str, Any] = {}
    for role, value in roles.items():
        if isinstance(value, tuple):
            found[role] = tuple(wanted(role, signals) for signals in value)
        else:
            found[role] = wanted(role, value)
    return {role: value for role, value in found.items() if value or role == "student"}


def _bare(name: str, loss: Loss) -> str:
    """``feature@1`` of a joint loss is ``feature`` in its needs; lengths belong to what they measure."""
    name = name.removesuffix(LENGTHS)
    return name.partition("@")[0] if loss.joint else name


def _mapped(value: Any, change: Callable[[str, Tensor], Tensor], path: str) -> Any:
    if isinstance(value, Tensor):
        return change(path, value)
    if isinstance(value, dict):
        return {key: _mapped(item, change, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_mapped(item, change, f"{path}[{i}]") for i, item in enumerate(value))
    return value


def _rows(value: Any, at: Tensor, samples: int) -> Any:
    if isinstance(value, Tensor):
        return value[at] if value.ndim and len(value) == samples else value
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_rows(item, at, samples) for item in value)
    if not isinstance(value, dict):
        return value
    picked = {key: _rows(item, at, samples) for key, item in value.items()}
    for key in value:  # packed: the samples lie one after the other
        if key + LENGTHS in value:
            pieces = value[key].split(value[key + LENGTHS].tolist())
            picked[key] = torch.cat([pieces[i] for i in at.tolist()])
    return picked
