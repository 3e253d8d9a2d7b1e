"""Everything that YAML lets pass and a recipe must not hold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from kdcore.errors import Problem
from kdcore.recipe.nodes import plain
from kdcore.recipe.parse import MAX_DEPTH, MAX_NODES, parse, read_file


def read(text: str) -> tuple[Any, list[str]]:
    problems: list[Problem] = []
    node = parse(text, "r.yaml", problems)
    return (None if node is None else plain(node)), [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-3", 0.003),
        ("1e5", 100000.0),
        ("3.0e-3", 0.003),
        ("-1.", -1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("007", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b101", 5),
        ("-12", -12),
        ("1_000", 1000),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("=", "="),
        ("true", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("'3'", "3"),
        ("!!str 007", "007"),
        ("kdcore>=0.1", "kdcore>=0.1"),
        ("${models.student}", "${models.student}"),
    ],
)
def test_scalars_get_the_types_a_person_expects(text: str, value: object) -> None:
    got, problems = read(f"x: {text}")
    assert problems == []
    assert got == {"x": value}
    assert type(got["x"]) is type(value)


def test_not_a_number_is_read_as_one() -> None:
    got, _ = read("x: .nan")
    assert math.isnan(got["x"])


def test_every_value_remembers_file_line_text_and_path() -> None:
    node = parse("a:\n  b: 007\n  c: [x, {d: 'two words'}]\n", "r.yaml", [])
    assert node is not None
    b = node.items["a"].items["b"].mark
    assert (b.file, b.line, b.text, b.path) == ("r.yaml", 2, "007", "a.b")
    item = node.items["a"].items["c"].get("1")
    assert item is not None
    d = item.items["d"].mark
    assert (d.line, d.text, d.path) == (3, "two words", "a.c.1.d")
    assert (node.items["a"].mark.line, node.items["a"].mark.text) == (1, "")


def test_anchors_aliases_and_merge_keys_are_fine() -> None:
    text = "base: &b {use: net, width: 2}\nwide: {<<: *b, width: 8}\nsame: *b\nboth: {<<: [{x: 1}, {x: 2, y: 3}]}\n"
    got, problems = read(text)
    assert problems == []
    assert got["wide"] == {"use": "net", "width": 8}
    assert got["same"] == {"use": "net", "width": 2}
    assert got["both"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "r.yaml:3: a: the key is there twice (first on line 1)\n    keep one of the two"),
        (
            "m:\n  a: {x: 1, x: 2}\n",
            "r.yaml:2: m.a.x: the key is there twice (first on line 2)\n    keep one of the two",
        ),
        ("a:\n\tb: 1\n", "r.yaml:2: a tab is used for indentation\n    YAML wants spaces"),
        ("a:\n  b: 1\n\tc: 2\n", "r.yaml:3: a tab is used for indentation\n    YAML wants spaces"),
        (
            "a: !!python/object/apply:os.system ['true']\n",
            "r.yaml:1: a: carries the YAML tag `!!python/object/apply:os.system`"
            "\n    remove the tag: a recipe holds plain values only and never names code",
        ),
        ("a: !custom 3\n", "r.yaml:1: a: carries the YAML tag `!custom`"),
        ("a: !!set {x: null}\n", "r.yaml:1: a: carries the YAML tag `!!set`"),
        ("a: !!int lots\n", "r.yaml:1: a: `lots` cannot be read as int\n    quote it for text"),
        ("a: " + "9" * 5000 + "\n", "r.yaml:1: a: `" + "9" * 37 + "...` cannot be read as int"),
        ("on: 1\n", 'r.yaml:1: the key `on` is read as a boolean by YAML\n    quote it: "on"'),
        ("x: {no: 1}\n", 'r.yaml:1: x: the key `no` is read as a boolean by YAML\n    quote it: "no"'),
        ("classes: {0: cat}\n", 'r.yaml:1: classes: the key `0` is read as a number by YAML\n    quote it: "0"'),
        ("~: 1\n", 'r.yaml:1: the key `~` is read as nothing by YAML\n    quote it: "~"'),
        ("? [a]\n: 1\n", "r.yaml:1: a key is a mapping or a list\n    a key is a plain word"),
        ("a: &x [*x]\n", "r.yaml:1: a.0: an alias stands inside what it stands for"),
        ("a: {<<: 3}\n", "r.yaml:1: a.<<: `<<` wants a mapping"),
        ("a: *gone\n", "r.yaml:1: this is not YAML: found undefined alias 'gone'"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: a second document starts here"),
        ("a: [1, 2\nb: 3\n", "r.yaml:2: this is not YAML:"),
        ("a: {x: ${b}}\n", 'inside { } or [ ] an interpolation must be quoted: "${a.b}"'),
        ("a: \x07\n", "r.yaml:1: the character U+0007 is not allowed in YAML\n    remove it"),
        ('a: "\\0"\n', "r.yaml:1: a: holds a NUL or a lone surrogate"),
        ('a: "\\ud800"\n', "r.yaml:1: a: holds a NUL or a lone surrogate"),
        ("a: " + "[" * 100 + "]" * 100, f"r.yaml:1: nested deeper than {MAX_DEPTH} levels"),
    ],
)
def test_what_a_recipe_must_not_hold_is_named_with_its_line(text: str, message: str) -> None:
    _, problems = read(text)
    assert any(message in problem for problem in problems), problems


def test_an_alias_bomb_stops_early() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    got, problems = read("\n".join(rows))
    assert got is None
    assert len(problems) == 1
    assert f"holds more than {MAX_NODES} values" in problems[0]


def test_problems_in_one_file_are_all_reported() -> None:
    _, problems = read("a: 1\na: 2\non: 3\nc: !x 4\n")
    assert [problem.split(":")[1] for problem in problems] == ["2", "3", "4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: caf\xe9\n", "r.yaml:2: byte 0xe9 is not UTF-8\n    save the file as UTF-8"),
        (b"", "r.yaml: the file is empty\n    a recipe starts with `kdcore: 1`"),
        (b"# only a comment\n", "r.yaml: the file is empty\n    a recipe starts with `kdcore: 1`"),
        (b"- 1\n- 2\n", "r.yaml:1: holds a list at the top\n    a recipe is a mapping, such as `kdcore: 1`"),
        (b"word", "r.yaml:1: holds `word` at the top\n    a recipe is a mapping, such as `kdcore: 1`"),
    ],
)
def test_a_file_that_holds_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    problems: list[Problem] = []
    assert read_file(path, "r.yaml", problems) is None
    assert [str(problem) for problem in problems] == [message]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfkdcore: 1\n")
    node = read_file(path, "r.yaml", [])
    assert node is not None
    assert plain(node) == {"kdcore": 1}


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").touch()
    problems: list[Problem] = []
    assert read_file(tmp_path / "r.yaml", "r.yaml", problems) is None
    assert read_file(tmp_path, "folder", problems) is None
    assert [str(problem) for problem in problems] == [
        "r.yaml: there is no such file\n    beside it: other.yaml",
        "folder: is a folder, not a recipe\n    name a YAML file",
    ]
