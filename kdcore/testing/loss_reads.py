"""What a loss reads, and what it must leave as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdcore.losses.base import Loss
from kdcore.testing.case import LENGTHS, Case, read_by
from kdcore.testing.checks import Check, PromiseError


class Recording(dict[str, Any]):
    """Signals that remember which of them were read."""

    def __init__(self, signals: dict[str, Any]) -> None:
        super().__init__(signals)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def items(self) -> Any:
        self.read.update(self)
        return super().items()

    def values(self) -> Any:
        self.read.update(self)
        return super().values()


def _runs(case: Case) -> None:
    loss, _ = case.build()
    _check_given(case, loss)
    try:
        case.call(loss)
    except KeyError:  # perhaps of a signal that it does not declare: the next check says so
        return


def _needs(case: Case) -> None:
    loss, _ = case.build()
    recorded: dict[str, tuple[Recording, ...]] = {}

    def forward(student: Any, teacher: Any, batch: Any, **roles: Any) -> Any:
        every = {"student": student, "teacher": teacher, **roles}
        for role, value in every.items():
            several = isinstance(value, tuple)
            recorded[role] = tuple(Recording(signals) for signals in (value if several else (value,)))
            every[role] = recorded[role] if several else recorded[role][0]
        return loss(every.pop("student"), every.pop("teacher"), batch, **every)

    try:
        case.call(loss, forward)
    except KeyError as error:
        missing = error.args[0]
        role = next((role for role, signals in recorded.items() if missing in signals[0].read - signals[0].keys()), "")
        if not role:
            raise
        raise PromiseError(
            f'`forward` reads `{role}.{missing}`, which `needs` does not list: add "{role}.{missing}" to it, or the '
            "core will not give it"
        ) from error
    for role, signals in recorded.items():
        listed = [name for name in signals[0] if not name.endswith(LENGTHS)]  # which come with what they measure
        unread = sorted(name for name in listed if all(name not in one.read for one in signals))
        if unread:
            raise PromiseError(
                f"`needs` lists `{role}.{unread[0]}`, which `forward` does not read: take it out, or a net is run, or "
                "a tap hooked, for nothing"
            )


def _check_given(case: Case, loss: Loss) -> None:
    given = read_by(loss, case.roles)
    for need in sorted(loss.needs):
        role, _, name = need.partition(".")
        signals = given.get(role, {})
        known = signals[0] if isinstance(signals, tuple) else signals
        if not any(signal.partition("@")[0] == name for signal in known):
            raise PromiseError(f"it needs `{need}`, which the check was not given: pass {role}={{{name!r}: ...}}")


def _teacher(case: Case) -> None:
    loss, models = case.build()
    parts = {part: role for role, model in models.items() for part in model.modules()}
    held = next((part for part in loss.modules() if part in parts), None)
    if held is not None:
        raise PromiseError(
            f"it holds a part of the model `{parts[held]}` ({type(held).__name__}) as its own, which would be put into "
            "train mode and stored with the student: keep it in a plain tuple, `self._model = (model,)`"
        )
    frozen = {role: model for role, model in models.items() if role != "student"}
    before = {role: {name: x.clone() for name, x in model.state_dict().items()} for role, model in frozen.items()}
    case.call(loss)
    for role, model in frozen.items():
        thawed = next((name for name, parameter in model.named_parameters() if parameter.requires_grad), None)
        if thawed is not None:
            raise PromiseError(
                f"it made `{thawed}` of the frozen model `{role}` require a gradient: a teacher does not learn"
            )
        if any(not torch.equal(x, before[role][name]) for name, x in model.state_dict().items()):
            raise PromiseError(f"it changed weights or buffers of the frozen model `{role}`: a loss only reads them")
        if any(part.training for part in model.modules()):
            raise PromiseError(f"it put the frozen model `{role}` into train mode: leave its mode alone")


def _inputs(case: Case) -> None:
    loss, _ = case.build()
    given: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(path: str, x: Tensor) -> Tensor:
        mine = x.detach().clone()
        given[path] = mine, mine.clone()
        return mine

    mine = case.mapped(keep)
    roles = read_by(loss, mine.roles)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        loss(roles.pop("student"), roles.pop("teacher", {}), mine.batch, **roles)
    for path, (after, before) in given.items():
        if not torch.equal(torch.nan_to_num(after), torch.nan_to_num(before)):
            raise PromiseError(
                f"it changed `{path}` in place, which other losses of the step read too: write `x = x + y`, not "
                "`x += y`, and `masked_fill`, not `masked_fill_`"
            )
        if after.requires_grad:
            raise PromiseError(f"it turned on the gradient of `{path}`: leave what it is given alone")
    changed = sorted(mine.batch.keys() ^ case.batch.keys())
    if changed:
        raise PromiseError(
            f"it put `{changed[0]}` into the batch, or took it out, and others read the batch too: make a new one, "
            "`{**batch, ...}`"
        )


READS: tuple[Check[Case], ...] = (
    Check(
        "runs", "it runs on what a recipe could give it", _runs, "give the check what it reads, or make it read this"
    ),
    Check("needs", "`forward` reads what `needs` lists", _needs, 'read signals by name, `student["logits"]`'),
    Check("inputs", "what it is given stays as it is", _inputs, "make new tensors"),
    Check("teacher", "frozen models stay as they are", _teacher, "read them only"),
)
