"""Losses that read what they do not declare, or change what they are given."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from kdcore.losses.base import Total, masked_total
from kdcore.testing import check_loss, samples
from kdcore.testing.loss_reads import Recording

from . import refusal as r
from .sound import Sound

VECTORS = samples.vectors()


class Picky(Sound):
    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        if student["logits"].ndim != 3:
            raise ValueError("this loss reads sequences (N, T, C)")
        return super().seen(student, teacher, batch)


class Secretive(Sound):
    needs: ClassVar[frozenset[str]] = frozenset({"student.logits"})


class Greedy(Sound):
    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits", "teacher.hidden"})


class Reads(Sound):
    """Reads a batch's entry that may be missing."""

    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        batch["edges"]
        return super().seen(student, teacher, batch)


class Overwrites(Sound):
    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        batch["weight"].mul_(2.0)
        return super().seen(student, teacher, batch)


class Wakes(Sound):
    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        teacher["logits"].requires_grad_()
        return super().seen(student, teacher, batch)


class Remarks(Sound):
    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        batch["seen"] = True
        return super().seen(student, teacher, batch)


class Judged(Sound):
    """Looks at both signals through the teacher's own last layer."""

    def setup(self, example: Any, facts: Any, models: Any) -> None:
        self.judge = (models("teacher"),)

    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        ours, theirs = super().seen(student, teacher, batch)
        return self.judge[0](ours), self.judge[0](theirs)


class Keeps(Judged):
    def setup(self, example: Any, facts: Any, models: Any) -> None:
        self.judge = nn.ModuleList([models("teacher")])  # type: ignore[assignment]


class Thaws(Judged):
    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        self.judge[0].weight.requires_grad_()
        return super().seen(student, teacher, batch)


class Changes(Judged):
    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        with torch.no_grad():
            self.judge[0].bias.add_(1.0)  # both sides see it, so that nothing else shows it
        return super().seen(student, teacher, batch)


class Trains(Judged):
    def seen(self, student: Any, teacher: Any, batch: Any) -> Any:
        self.judge[0].train()
        return super().seen(student, teacher, batch)


def judge() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(samples.CLASSES, 3)


def test_what_it_refuses_is_said_as_it_says_it():
    assert r.refusal(Picky, "runs", exactly=False, **VECTORS) == (
        "it raises ValueError: this loss reads sequences (N, T, C); promised is that it runs on what a recipe could "
        "give it: give the check what it reads, or make it read this"
    )


def test_a_role_that_was_not_given():
    given = {**VECTORS, "teacher": None}
    assert r.refusal(Sound, "runs", exactly=False, **given) == (
        "it needs `teacher.logits`, which the check was not given: pass teacher={'logits': ...}"
    )


def test_a_signal_that_it_does_not_declare():
    assert r.refusal(Secretive, "needs", exactly=False, **VECTORS) == (
        '`forward` reads `teacher.logits`, which `needs` does not list: add "teacher.logits" to it, or the core will '
        "not give it"
    )


def test_a_signal_that_it_declares_for_nothing():
    given = {**VECTORS, "teacher": {**VECTORS["teacher"], "hidden": torch.zeros(4, 3)}}
    assert r.refusal(Greedy, "needs", **given) == (
        "`needs` lists `teacher.hidden`, which `forward` does not read: take it out, or a net is run, or a tap hooked, "
        "for nothing"
    )


def test_what_a_batch_lacks_is_said():
    assert r.refusal(Reads, "needs", exactly=False, **VECTORS) == (
        "it raises KeyError: edges; promised is that `forward` reads what `needs` lists: read signals by name, "
        '`student["logits"]`'
    )


def test_a_change_in_place():
    given = r.plain(VECTORS, "labels")
    given["batch"]["weight"] = torch.ones(4)
    assert r.refusal(Overwrites, "inputs", **given) == (
        "it changed `batch.weight` in place, which other losses of the step read too: write `x = x + y`, not `x += y`, "
        "and `masked_fill`, not `masked_fill_`"
    )
    assert given["batch"]["weight"].tolist() == [1.0] * 4  # what the test gave is left alone


def test_a_gradient_that_is_turned_on():
    assert r.refusal(Wakes, "inputs", **VECTORS) == (
        "it turned on the gradient of `teacher.logits`: leave what it is given alone"
    )


def test_an_entry_that_is_put_into_the_batch():
    assert r.refusal(Remarks, "inputs", **VECTORS) == (
        "it put `seen` into the batch, or took it out, and others read the batch too: make a new one, `{**batch, ...}`"
    )


def test_a_model_may_be_read():
    check_loss(Judged, **VECTORS, models={"teacher": judge()}, skip=r.PLAIN)


def test_a_model_that_is_kept_as_a_part():
    assert r.refusal(Keeps, "teacher", models={"teacher": judge()}, **VECTORS) == (
        "it holds a part of the model `teacher` (Linear) as its own, which would be put into train mode and stored "
        "with the student: keep it in a plain tuple, `self._model = (model,)`"
    )


def test_a_model_that_is_thawed():
    assert r.refusal(Thaws, "teacher", models={"teacher": judge()}, **VECTORS) == (
        "it made `weight` of the frozen model `teacher` require a gradient: a teacher does not learn"
    )


def test_a_model_that_is_changed():
    model = judge()
    assert r.refusal(Changes, "teacher", models={"teacher": model}, **VECTORS) == (
        "it changed weights or buffers of the frozen model `teacher`: a loss only reads them"
    )
    assert torch.equal(model.bias, judge().bias)  # each loss was given a copy


def test_a_model_that_is_put_into_train_mode():
    assert r.refusal(Trains, "teacher", models={"teacher": judge()}, **VECTORS) == (
        "it put the frozen model `teacher` into train mode: leave its mode alone"
    )


@pytest.mark.parametrize("how", [lambda s: s["a"], lambda s: s.get("a"), lambda s: list(s.items())])
def test_a_recording_knows_what_was_read(how: Any):
    signals = Recording({"a": 1})
    assert not signals.read
    how(signals)
    assert signals.read == {"a"}


def test_a_recording_knows_what_was_looked_for_in_vain():
    signals = Recording({"a": 1, "b": 2})
    assert signals.get("c", 3) == 3
    assert list(signals.values()) == [1, 2]
    assert signals.read == {"a", "b", "c"}


class Several(Sound):
    """A teacher that is a list, and a role of its own."""

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits", "reference.logits"})

    def forward(self, student: Any, teacher: Any, batch: Any, *, reference: Any = None, **roles: Any) -> Total:
        mean = torch.stack([one["logits"].float() for one in teacher]).mean(0)
        terms = self.terms(student["logits"].float(), 0.5 * mean + 0.5 * reference["logits"].float())
        return masked_total(terms, batch)


def test_lists_of_teachers_and_further_roles():
    given = {**r.plain(VECTORS, "labels"), "teacher": (VECTORS["teacher"], VECTORS["teacher"])}
    check_loss(Several, **given, roles={"reference": VECTORS["teacher"]}, skip=r.PLAIN)
    assert r.refusal(Several, "runs", exactly=False, **given) == (
        "it needs `reference.logits`, which the check was not given: pass reference={'logits': ...}"
    )
