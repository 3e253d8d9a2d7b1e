"""Recipe files and overrides to one document."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcore.errors import Problem, RecipeError
from kdcore.recipe.load import in_order, load

from .conftest import Write

RECIPE = """\
kdcore: 1
name: 007
models:
  student: {use: net, width: 8}
  alone: ${models.student}
losses:
  kd: {use: kl, weight: 0.9, temperature: 2.0}
"""


def lines(sources: list[Path], *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(sources, overrides)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def test_a_document_holds_plain_data_its_unresolved_source_and_marks(write: Write) -> None:
    document = load([write(RECIPE)], ["losses.kd.weight=0.5"])
    assert document.data["models"]["alone"] == {"use": "net", "width": 8}
    assert document.source["models"]["alone"] == "${models.student}"
    assert type(document.data["models"]) is dict
    assert document.data["losses"]["kd"]["weight"] == 0.5
    assert (document.marks["name"].text, document.marks["name"].line) == ("007", 2)
    assert document.marks["losses.kd.weight"].file == "override `losses.kd.weight=0.5`"
    assert document.files == ("recipe.yaml",)
    assert document.overrides == ("losses.kd.weight=0.5",)


def test_every_path_of_the_data_has_a_mark(write: Write) -> None:
    document = load([write(RECIPE)], ["models.student.edits=[{use: lora}]"])
    assert {"models.alone.edits.0.use", "models.alone.width", "losses.kd"} <= document.marks.keys()
    node = document.tree().items["models"].items["alone"].items["edits"].get("0")
    assert node is not None
    assert node.items["use"].mark.path == "models.student.edits.0.use"


def test_later_recipes_are_laid_over_earlier_ones(write: Write) -> None:
    first = write(RECIPE, "base.yaml")
    second = write("losses: {kd: {use: mse}}\nmodels: {alone: {width: 4}}\n", "other.yaml")
    document = load([first, second])
    assert document.data["losses"] == {"kd": {"use": "mse", "weight": 0.9}}
    assert document.data["models"] == {"student": {"use": "net", "width": 8}, "alone": {"use": "net", "width": 4}}
    assert [str(warning) for warning in document.warnings] == [
        "warning: other.yaml:1: losses.kd.use: changes from `kl` to `mse`, which drops `temperature`"
    ]
    assert document.marks["models.alone.width"].file == "other.yaml"


def test_secrets_stay_out_of_the_source(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTEST_TOKEN", "s3cret")
    document = load([write("name: x\nlogger: {use: wandb, key: '${oc.env:KDTEST_TOKEN}'}\n")])
    assert document.data["logger"]["key"] == "s3cret"
    assert "s3cret" not in repr((document.source, document.marks))


def test_problems_of_all_files_and_overrides_come_together_in_order(write: Write) -> None:
    first = write("a: 1\nb: !x 2\na: 3\n", "one.yaml")
    second = write("on: 1\n", "two.yaml")
    found = lines([second, first, Path("three.yaml")], "a..b=1")
    assert [line.split(": ")[0] for line in found] == ["two.yaml:1", "one.yaml:2", "one.yaml:3", "three.yaml"]
    assert lines([write("a: 1\n")], "a..b=1", "~b") == [
        "override `a..b=1`: is not understood\n    write a.b=value to set, or ~a.b to delete",
        "override `~b`: b: there is no `b` to delete\n    known: a",
    ]


def test_broken_interpolations_of_all_files_come_together(write: Write) -> None:
    found = lines([write("a: ${x}\nb: ${oc.env:KDTEST_NOT_SET}\n")], "c=${y}")
    assert [line.split(": ")[0] for line in found] == ["recipe.yaml:1", "recipe.yaml:2", "override `c=${y}`"]


def test_no_recipe_at_all() -> None:
    assert lines([]) == ["no recipe is given\n    name a recipe file, or one that is shipped: quickstart"]


def test_a_broken_interpolation_under_a_later_mapping_is_reported(write: Write) -> None:
    found = lines([write("a: ${x}\n", "one.yaml"), write("a: {b: 1}\n", "two.yaml")])
    assert found == ["one.yaml:1: a: `${x}` points at nothing: no `x` in the recipe\n    known: a"]


def test_problems_are_sorted_by_file_then_line_and_said_once() -> None:
    a = Problem("a", file="two", line=1)
    b = Problem("b", file="one", line=9)
    c = Problem("c", file="one", line=10)
    d = Problem("d", file="override `x`")
    assert in_order([d, c, a, b, c], ["one", "two"]) == [b, c, a, d]
