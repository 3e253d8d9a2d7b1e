"""Whatever the text: a recipe, or a RecipeError."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcore.errors import RecipeError
from kdcore.recipe.arguments import split_arguments
from kdcore.recipe.check import check, read
from kdcore.recipe.load import load

from .conftest import BASE
from .fakes import FakeFinder

TEXT = (
    BASE
    + """\
taps: {deep: {student: x, teacher: y, project: conv1x1}}
optimizer: {use: adamw, groups: {head: {lr: 1}}, schedule: {use: cosine}}
cache: {of: teacher}
stages:
  a: {train: [teacher, student], init: {student: teacher}, freeze: {student: [x]}}
  b: {do: {use: table, out: x}}
  c: ${stages.a}
"""
)
WORDS = [
    "null",
    "[]",
    "{}",
    "3",
    "${models}",
    "${stages.c}",
    "&a",
    "*a",
    "<<: ",
    "!!set",
    "~",
    "???",
    "-",
    "'",
    "\t",
    "\n",
    ":",
    "{use: kl}",
    "of",
    "[[",
    "007",
    ".nan",
    "on",
    "${oc.env:HOME}",
    "\x00",
    "é",
    "#",
    "@",
    "ensemble",
]
PATHS = [
    "stages.a.train",
    "stages.c.x.y",
    "losses.kd",
    "models.student",
    "taps.deep",
    "a",
    "models",
    "stages",
    "cache.of",
    "task",
]

edits = st.lists(st.tuples(st.integers(0, len(TEXT)), st.integers(0, 12), st.sampled_from(WORDS)), max_size=4)
overrides = st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(WORDS)), max_size=3)


def mutated(changes: list[tuple[int, int, str]]) -> str:
    text = TEXT
    for start, length, word in changes:
        text = text[:start] + word + text[start + length :]
    return text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(edits, overrides)
def test_a_mutated_recipe_is_read_or_refused(changes: list[tuple[int, int, str]], given: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r.yaml")
        path.write_text(mutated(changes), encoding="utf-8")
        try:
            document = load([path], [f"{name}={value}" for name, value in given])
        except RecipeError:
            return
        recipe, problems = check(document, FakeFinder())
        assert (recipe is None) == any(problem.level == "error" for problem in problems)


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=60), st.lists(st.text(max_size=20), max_size=2))
def test_bytes_and_words_are_read_or_refused(content: bytes, words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r.yaml")
        path.write_bytes(content)
        with contextlib.suppress(RecipeError):
            _, texts = split_arguments(words, {})
            recipe = read([path], texts, FakeFinder())
            assert recipe.stages
