"""What an annotation, read as text, accepts of a recipe."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kdcore.recipe.nodes import Mark, Node
from kdcore.recipe.parse import parse
from kdcore.recipe.types import Converter, MismatchError, absolute, describe


def node(text: str) -> Node:
    found = parse(f"x: {text}", "r.yaml", [])
    assert found is not None
    return found.items["x"]


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("int", "3", 3),
        ("float", "3", 3.0),
        ("float", "3e-3", 0.003),
        ("float", ".inf", math.inf),
        ("bool", "yes", True),
        ("None", "null", None),
        ("str", "word", "word"),
        ("str", "007", "007"),
        ("str", "off", "off"),
        ("str", "1.10", "1.10"),
        ("str", "null", "null"),
        ("str | None", "null", None),
        ("int | str", "007", 7),
        ("str | int", "007", 7),
        ("int | float", "2", 2),
        ("int | float", "2.0", 2.0),
        ("Optional[int]", "null", None),
        ("typing.Optional[int]", "4", 4),
        ("Union[int, None, bool]", "true", True),
        ("'int | None'", "5", 5),
        ("list[int]", "[1, 2]", [1, 2]),
        ("list[str]", "[007, a]", ["007", "a"]),
        ("Sequence[float]", "[1]", [1.0]),
        ("list[list[int]]", "[[1], []]", [[1], []]),
        ("list", "[1, a]", [1, "a"]),
        ("tuple[float, ...]", "[1, 2]", (1.0, 2.0)),
        ("tuple[int, str]", "[1, 2]", (1, "2")),
        ("tuple", "[1]", (1,)),
        ("dict[str, float]", "{a: 1}", {"a": 1.0}),
        ("Mapping[str, list[int]]", "{a: [1]}", {"a": [1]}),
        ("dict[str, Any]", "{a: {b: [1]}}", {"a": {"b": [1]}}),
        ("dict", "{a: 1}", {"a": 1}),
        ("Literal['a', 'b']", "b", "b"),
        ("Literal['on', 'off']", "off", "off"),
        ("Literal[1, -1] | None", "-1", -1),
        ("Scheduled", "2", 2.0),
        ("Scheduled | None", "null", None),
        ("Any", "{a: [1]}", {"a": [1]}),
        ("", "[1]", [1]),
        ("Norm", "batch", "batch"),
        ("Norm | int", "[1]", [1]),
        ("torch.dtype", "1", 1),
        ("not an annotation", "1", 1),
    ],
)
def test_what_fits_is_converted(annotation: str, text: str, value: object) -> None:
    got = Converter().convert(node(text), annotation)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text", "wanted"),
    [
        ("int", "true", "a whole number"),
        ("int", "1.0", "a whole number"),
        ("int", "abc", "a whole number"),
        ("int", "null", "a whole number"),
        ("int", "'3'", "a whole number"),
        ("float", "true", "a number"),
        ("float", "1" * 400, "a number"),
        ("bool", "1", "true or false"),
        ("str", "[a]", "text"),
        ("str", "", "text"),
        ("int | None", "x", "a whole number or null"),
        ("float | bool", "x", "a number or true or false"),
        ("Literal['a', 'b'] | None", "c", "one of `a`, `b` or null"),
        ("list[int]", "3", "a list of whole numbers"),
        ("tuple[float, ...]", "3", "a list of numbers"),
        ("list", "3", "a list"),
        ("tuple[int, int]", "[1]", "a list of 2 values"),
        ("dict[str, int]", "[1]", "a mapping"),
        ("Path", "''", "a path"),
        ("Path", "[a]", "a path"),
        ("Scheduled", "fast", "a number or a schedule"),
        ("Scheduled", "[1]", "a number or a schedule"),
    ],
)
def test_what_does_not_fit_says_what_was_wanted(annotation: str, text: str, wanted: str) -> None:
    with pytest.raises(MismatchError) as caught:
        Converter().convert(node(text), annotation)
    assert caught.value.wanted == wanted
    assert caught.value.node.mark.path == "x"


@pytest.mark.parametrize(
    ("annotation", "text", "path", "wanted"),
    [
        ("list[int]", "[1, x, y]", "x.1", "a whole number"),
        ("dict[str, list[bool]] | None", "{a: [true, 1]}", "x.a.1", "true or false"),
        ("tuple[int, ...]", "[1, 2.5]", "x.1", "a whole number"),
    ],
)
def test_the_very_value_at_fault_is_named(annotation: str, text: str, path: str, wanted: str) -> None:
    with pytest.raises(MismatchError) as caught:
        Converter().convert(node(text), annotation)
    assert (caught.value.node.mark.path, caught.value.wanted) == (path, wanted)


@pytest.mark.parametrize(("annotation", "kind"), [("Scheduled | None", "schedule"), ("Data", "data")])
def test_a_mapping_for_a_parameter_that_takes_a_slot_becomes_one_of_that_kind(annotation: str, kind: str) -> None:
    converter = Converter(slot=lambda wanted, given: (wanted, given.items["use"].value))
    assert converter.convert(node("{use: linear}"), annotation) == (kind, "linear")


def test_where_data_is_wanted_nothing_else_will_do() -> None:
    with pytest.raises(MismatchError) as caught:
        Converter().convert(node("digits"), "Data")
    assert caught.value.wanted == "a mapping such as {use: NAME}"


@pytest.mark.parametrize(
    ("annotation", "held", "value"),
    [
        ("int", "4", 4),
        ("bool | None", "off", False),
        ("float", "1e-3", 0.001),
        ("str", "4", "4"),
        ("int | str", "4", "4"),
    ],
)
def test_the_environment_holds_text_that_is_read_as_what_is_wanted(annotation: str, held: str, value: object) -> None:
    given = Node(held, Mark("r.yaml", 1, "${oc.env:WORKERS}", "x"))
    converter = Converter()
    assert converter.convert(given, annotation) == value
    assert converter.rewritten == {}


@pytest.mark.parametrize("held", ["many", "[1]", "{", "!!int x"])
def test_what_the_environment_holds_may_not_fit(held: str) -> None:
    with pytest.raises(MismatchError):
        Converter().convert(Node(held, Mark("r.yaml", 1, "${oc.env:WORKERS}", "x")), "int")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("data.npz", "/recipes/data.npz"),
        ("../data.npz", "/data.npz"),
        ("/abs/x", "/abs/x"),
        ("~/x", "/home/me/x"),
        ("~nobody-of-this-name/x", "/recipes/~nobody-of-this-name/x"),
        ("2024", "/recipes/2024"),
    ],
)
def test_a_path_is_relative_to_the_recipe_that_wrote_it(text: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = parse(f"x: {text}", "/recipes/r.yaml", [])
    assert given is not None
    converter = Converter()
    got = converter.convert(given.items["x"], "Path | None")
    assert isinstance(got, Path)
    assert str(got) == path
    assert converter.rewritten == {"x": path}


def test_a_path_in_an_override_is_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Converter().convert(Node("d.npz", Mark("override `x=d.npz`", 0, "d.npz", "x")), "Path") == tmp_path / "d.npz"


def test_text_that_yaml_took_for_a_number_is_remembered() -> None:
    converter = Converter()
    converter.convert(node("[007, a]"), "list[str]")
    assert converter.rewritten == {"x.0": "007"}


def test_absolute_and_describe_stand_alone() -> None:
    assert absolute("a/../b", "/r") == "/r/b"
    assert describe("dict[str, int] | Path | None") == "a mapping or a path or null"
    assert describe("list[int | str]") == "a list of a whole number or text"
