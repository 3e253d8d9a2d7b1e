from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from kdcore.errors import Problem, RecipeError
from kdcore.recipe.check import check
from kdcore.recipe.load import load
from kdcore.recipe.schema import Recipe

from .fakes import FakeFinder

Write: TypeAlias = Callable[..., Path]

BASE = """\
kdcore: 1
name: base
task: {use: classify, classes: 10}
data: {use: arrays}
models:
  teacher: {use: net, width: 8, weights: teacher.pt}
  student: {use: net, width: 2}
losses:
  ce: {use: cross_entropy, weight: 0.1}
  kd: {use: kl, weight: 0.9, temperature: 2.0}
metrics: {accuracy: {use: accuracy}, agreement: {use: agreement}}
"""
"""A sound recipe; tests add to it and override it."""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a recipe into an empty current folder and gives its bare name, so that messages are short."""
    monkeypatch.chdir(tmp_path)

    def _write(text: str, name: str = "recipe.yaml") -> Path:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
        return Path(name)

    return _write


class Checked:
    """A recipe that was read and checked: what came out, and everything that was said."""

    def __init__(self, recipe: Recipe | None, problems: list[Problem]) -> None:
        self.maybe = recipe
        self.problems = problems

    @property
    def recipe(self) -> Recipe:
        assert self.maybe is not None, "\n".join(self.lines)
        return self.maybe

    @property
    def lines(self) -> list[str]:
        return [str(problem) for problem in self.problems]

    @property
    def errors(self) -> list[str]:
        return [str(problem) for problem in self.problems if problem.level == "error"]


Judge: TypeAlias = Callable[..., Checked]


@pytest.fixture
def judge(write: Write) -> Judge:
    """Loads and checks a text with overrides, by the fake components."""

    def _judge(text: str, *overrides: str, alone: bool = True) -> Checked:
        try:
            document = load([write(text)], overrides)
        except RecipeError as error:
            return Checked(None, list(error.problems))
        return Checked(*check(document, FakeFinder(), alone=alone))

    return _judge
