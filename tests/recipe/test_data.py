"""The keys that the core owns in the data's slot."""

from __future__ import annotations

import pytest

from kdcore.recipe.schema import Slot

from .conftest import BASE, Judge

STAGES = """\
stages:
  mark: {do: {use: table, out: t.csv}}
  distil: {train: student, teachers: [teacher], data: {table: mark}}
"""


def test_transforms_and_views_are_chains_by_name(judge: Judge) -> None:
    data = judge(
        BASE,
        "data.transform={b: {use: flip}, a: {use: flip, p: 0.1}}",
        "data.views={weak: {}, strong: {again: {use: flip, p: 1}}}",
        "data.variants=3",
        "data.samples=labelled",
    ).recipe.data
    assert list(data.transform) == ["b", "a"]
    assert data.transform["a"] == Slot("data.transform.a", "flip", {"p": 0.1})
    assert data.views == {"weak": {}, "strong": {"again": Slot("data.views.strong.again", "flip", {"p": 1.0})}}
    assert data.variants == 3
    assert data.samples == "labelled"


def test_a_stage_may_drop_the_recipes_transforms_or_change_one(judge: Judge) -> None:
    text = BASE.replace("{use: arrays}", "{use: arrays, transform: {flip: {use: flip}}}") + (
        "stages:\n"
        "  plain: {train: student, teachers: [teacher], data: {transform: null}}\n"
        "  more: {train: student, teachers: [teacher], data: {transform: {flip: {p: 1.0}}}}\n"
    )
    stages = judge(text).recipe.stages
    assert stages["plain"].data.transform == {}
    assert stages["more"].data.transform["flip"].args == {"p": 1.0}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.transform={flip: {use: flop}}", "data.transform.flip.use: there is no transform `flop`"),
        ("data.transform={flip: {use: flip, q: 1}}", "data.transform.flip.q: unknown key of transform `flip`"),
        ("data.transform=[flip]", "data.transform: is a list, but must be a mapping"),
        ("data.transform={1x: {use: flip}}", "`1x` is no name"),
        ("data.views={weak: {flip: {use: flip, p: high}}}", "data.views.weak.flip.p: is `high`, but must be a number"),
        ("data.variants=-1", "data.variants: is `-1`, but must be 0 (no limit) or more"),
        ("data.variants=many", "data.variants: is `many`, but must be a whole number"),
        ("data.samples=some", "data.samples: is `some`, but must be one of `all`, `labelled`"),
        ("data.transforms={}", "data.transforms: unknown key of data `arrays`"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(judge: Judge, override: str, message: str) -> None:
    checked = judge(BASE, override)
    assert any(message in line for line in checked.errors), checked.errors


def test_a_table_is_that_of_an_earlier_action(judge: Judge) -> None:
    assert judge(BASE + STAGES).recipe.stages["distil"].data.table == "mark"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.distil.data.table=marc", "no stage `marc` before `distil` writes a table\n    did you mean `mark`?"),
        ("stages.mark.data.table=mark", "no stage `mark` before `mark` writes a table"),
        ("~stages.mark", "no stage `mark` before `distil` writes a table"),
    ],
)
def test_a_table_that_nobody_wrote_before_is_an_error(judge: Judge, override: str, message: str) -> None:
    checked = judge(BASE + STAGES, override)
    assert any(message in line for line in checked.errors), checked.errors
