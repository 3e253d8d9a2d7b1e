"""Overrides from the command line."""

from __future__ import annotations

from typing import Any

import pytest

from kdcore.errors import Problem
from kdcore.recipe.nodes import Node, plain
from kdcore.recipe.overrides import apply_overrides, parse_override
from kdcore.recipe.parse import parse

RECIPE = """\
name: base
models:
  student: {use: net, width: 8, edits: [{use: lora, rank: 2}, {use: lora, rank: 4}]}
  alone: ${models.student}
  third: ${models.alone}
losses:
  kd: {use: kl, weight: 0.9, temperature: 2.0}
stages:
  teach: {train: teacher, losses: {ce: {use: cross_entropy}}}
  distil: {train: student}
  again: ${stages.teach}
"""


def applied(*overrides: str, recipe: str = RECIPE) -> tuple[dict[str, Any], list[str], list[str]]:
    problems: list[Problem] = []
    warnings: list[Problem] = []
    root = parse(recipe, "r.yaml", [])
    assert root is not None
    data = plain(apply_overrides(root, overrides, problems, warnings))
    return data, [str(problem) for problem in problems], [str(warning) for warning in warnings]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("name=007", ["name"], 7),
        ("name=", ["name"], None),
        ("name=a=b", ["name"], "a=b"),
        ("losses.kd.weight=1e-1", ["losses", "kd", "weight"], 0.1),
        ("losses.kd.weight={use: linear, until: 0.3}", ["losses", "kd", "weight"], {"use": "linear", "until": 0.3}),
        ("models.student.edits.1.rank=8", ["models", "student", "edits", 1, "rank"], 8),
        ("models.student.edits.0={rank: 3}", ["models", "student", "edits", 0], {"use": "lora", "rank": 3}),
        ("models.student.edits=[]", ["models", "student", "edits"], []),
        ("models.new.use=net", ["models", "new"], {"use": "net"}),
        ("name.deeper=1", ["name"], {"deeper": 1}),
        ("losses.kd={temperature: 3}", ["losses", "kd"], {"use": "kl", "weight": 0.9, "temperature": 3}),
        ("stages.teach.losses.ce.weight=2", ["stages", "teach", "losses", "ce", "weight"], 2),
        ("stages.again.losses.ce.weight=2", ["stages", "again", "losses", "ce", "weight"], 2),
        ("stages.distil.losses={x: {use: kl}}", ["stages", "distil", "losses"], {"x": {"use": "kl"}}),
        ("stages.distil.trainer.max_epochs=3", ["stages", "distil", "trainer"], {"max_epochs": 3}),
    ],
)
def test_an_override_is_merged_in_like_a_later_recipe(override: str, path: list[Any], value: object) -> None:
    data: Any
    data, problems, warnings = applied(override)
    assert (problems, warnings) == ([], [])
    for key in path:
        data = data[key]
    assert data == value


def test_below_an_interpolation_only_that_end_changes() -> None:
    data, problems, _ = applied("models.alone.width=4")
    assert problems == []
    assert data["models"]["alone"]["width"] == 4
    assert data["models"]["alone"]["use"] == "net"
    assert data["models"]["student"]["width"] == 8
    assert data["models"]["third"] == "${models.alone}"


def test_below_a_chain_of_interpolations_the_ones_between_stay() -> None:
    data, _, _ = applied("models.third.edits.0.rank=1")
    assert data["models"]["third"]["edits"] == [{"use": "lora", "rank": 1}, {"use": "lora", "rank": 4}]
    assert data["models"]["alone"] == "${models.student}"
    assert data["models"]["student"]["edits"][0]["rank"] == 2


def test_a_mapping_over_an_interpolation_is_merged_with_a_copy() -> None:
    data, _, _ = applied("models.alone={width: 4}")
    assert data["models"]["alone"]["use"] == "net"
    assert data["models"]["student"]["width"] == 8


def test_deleting_takes_one_key_out() -> None:
    data, problems, _ = applied("~losses.kd.temperature", "~stages.distil", "~models.alone.width")
    assert problems == []
    assert data["losses"]["kd"] == {"use": "kl", "weight": 0.9}
    assert sorted(data["stages"]) == ["again", "teach"]
    assert "width" not in data["models"]["alone"]
    assert data["models"]["student"]["width"] == 8


def test_another_component_drops_what_belonged_to_the_old_one() -> None:
    data, _, warnings = applied("losses.kd.use=mse")
    assert data["losses"]["kd"] == {"weight": 0.9, "use": "mse"}
    assert warnings == [
        "warning: override `losses.kd.use=mse`: losses.kd.use: changes from `kl` to `mse`, which drops `temperature`"
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~losses.kl", "override `~losses.kl`: losses.kl: there is no `kl` to delete\n    known: kd"),
        ("~losses.kd.weight.x", "there is no `x` to delete"),
        ("models.student.edits.7.rank=8", "there is no item `7` in a list of 2\n    items count from 0"),
        ("models.student.edits.x=8", "there is no item `x` in a list of 2"),
        ("a..b=1", "override `a..b=1`: is not understood\n    write a.b=value to set, or ~a.b to delete"),
        ("=1", "is not understood"),
        ("~a=1", "is not understood"),
        ("name", "is not understood"),
        ("losses.kd.weight=@x", "override `losses.kd.weight=@x`: losses.kd.weight: this is not YAML:"),
        ("name=[1", "quote it for YAML: 'name=\"...\"'"),
        ("name=!!python/object:x {}", "name: carries the YAML tag `!!python/object:x`"),
        (
            "stages.distil.losses.kd.weight=1",
            "stages.distil.losses.kd.weight: stage `distil` has no `losses` of its own, so this would replace all it "
            "inherits\n    override `losses.kd.weight`, or give the stage its own: stages.distil.losses={...}",
        ),
        ("stages.distil.metrics.acc.top=5", "stage `distil` has no `metrics` of its own"),
        ("stages.nobody.losses.kd.weight=1", "stage `nobody` has no `losses` of its own"),
    ],
)
def test_what_cannot_be_applied_is_refused_and_leaves_the_recipe_alone(override: str, message: str) -> None:
    data, problems, _ = applied(override)
    assert len(problems) == 1
    assert message in problems[0]
    assert data == applied()[0]


def test_an_override_through_a_broken_interpolation_is_refused() -> None:
    _, problems, _ = applied("a.b=1", recipe="a: ${nowhere}\n")
    assert problems == [
        "override `a.b=1`: a.b: `${nowhere}` points at nothing: no `nowhere` in the recipe\n    known: a"
    ]


def test_later_overrides_see_earlier_ones() -> None:
    data, problems, _ = applied("losses.new.use=mse", "losses.new.weight=2", "~losses.kd", "losses.new.weight=3")
    assert problems == []
    assert data["losses"] == {"new": {"use": "mse", "weight": 3}}


def test_values_know_the_override_that_set_them() -> None:
    override = parse_override("a.b={c: 007}", [])
    assert override is not None
    assert isinstance(override.value, Node)
    mark = override.value.items["c"].mark
    assert (mark.file, mark.line, mark.text, mark.path) == ("override `a.b={c: 007}`", 0, "007", "a.b.c")
