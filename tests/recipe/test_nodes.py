"""How a later recipe is laid over an earlier one."""

from __future__ import annotations

from typing import Any

import pytest

from kdcore.errors import Problem
from kdcore.recipe.load import merge_sources
from kdcore.recipe.nodes import Mark, Node, plain, reference_keys
from kdcore.recipe.parse import parse


def node(text: str, file: str = "r.yaml") -> Node:
    found = parse(text, file, [])
    assert found is not None
    return found


def merged(first: str, second: str) -> tuple[Any, list[str]]:
    warnings: list[Problem] = []
    result = merge_sources(node(first, "a.yaml"), node(second, "b.yaml"), warnings)
    return plain(result), [str(warning) for warning in warnings]


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        ("{a: {b: 1, c: 2}}", "{a: {c: 3, d: 4}}", {"a": {"b": 1, "c": 3, "d": 4}}),
        ("{a: [1, 2, 3]}", "{a: [4]}", {"a": [4]}),
        ("{a: {b: 1}}", "{a: null}", {"a": None}),
        ("{a: 1}", "{a: {b: 1}}", {"a": {"b": 1}}),
        ("{s: {use: kl, t: 2}}", "{s: {use: kl, u: 3}}", {"s": {"use": "kl", "t": 2, "u": 3}}),
        ("{s: {use: kl, t: 2}}", "{s: {t: 4}}", {"s": {"use": "kl", "t": 4}}),
    ],
)
def test_mappings_merge_deep_and_the_rest_replaces(first: str, second: str, result: object) -> None:
    assert merged(first, second) == (result, [])


def test_another_component_keeps_only_the_core_keys_and_says_what_it_dropped() -> None:
    first = (
        "s: {use: kl, temperature: 4, side: reverse, weight: 0.5, at: deep, signal: x, teacher: t, schedule: {use: c}}"
    )
    result, warnings = merged(first, "\ns: {use: mse, side: left}")
    assert result["s"] == {
        "use": "mse",
        "side": "left",
        "weight": 0.5,
        "at": "deep",
        "signal": "x",
        "teacher": "t",
        "schedule": {"use": "c"},
    }
    assert warnings == ["warning: b.yaml:2: s.use: changes from `kl` to `mse`, which drops `temperature`"]


def test_the_replaced_slot_of_a_kept_key_follows_the_same_rule() -> None:
    result, warnings = merged(
        "o: {use: adamw, lr: 1, schedule: {use: cosine, warmup: 0.1}}", "o: {use: sgd, schedule: {use: linear}}"
    )
    assert result == {"o": {"use": "sgd", "schedule": {"use": "linear"}}}
    assert sum("drops `warmup`" in warning for warning in warnings) == 1
    assert sum("drops `lr`" in warning for warning in warnings) == 1


@pytest.mark.parametrize(
    "second",
    [
        "m: {alone: {width: 4}, student: {width: 16, depth: 3}}",
        "m: {student: {width: 16, depth: 3}, alone: {width: 4}}",
    ],
)
def test_a_mapping_over_an_interpolation_changes_only_that_end_whatever_the_order_of_keys(second: str) -> None:
    result, _ = merged("m:\n  student: {use: net, width: 8}\n  alone: ${m.student}\n", second)
    assert result["m"]["student"] == {"use": "net", "width": 16, "depth": 3}
    assert result["m"]["alone"] == {"use": "net", "width": 4, "depth": 3}


def test_the_mark_of_a_merged_value_is_that_of_the_later_file() -> None:
    result = merge_sources(node("a: {b: 1,\n c: 2}", "a.yaml"), node("\n\na: {c: 3}", "b.yaml"), [])
    children = result.items["a"].items
    assert (children["b"].mark.file, children["b"].mark.line) == ("a.yaml", 1)
    assert (children["c"].mark.file, children["c"].mark.line) == ("b.yaml", 3)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("${a.b-c.0}", ["a", "b-c", "0"]),
        ("${a}", ["a"]),
        ("x${a}", None),
        ("${a}${b}", None),
        ("${.a}", None),
        ("${a..b}", None),
        ("${oc.env:A}", None),
        ("${}", None),
        (3, None),
    ],
)
def test_what_counts_as_an_interpolation_of_a_whole_node(text: object, keys: object) -> None:
    found = reference_keys(Node(text))  # type: ignore[arg-type]
    assert (None if found is None else list(found)) == keys


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ({}, "", "a mapping"),
        ([], "", "a list"),
        (7, "007", "`007`"),
        (None, "", "empty"),
        (None, "null", "`null`"),
        ("secret", "${oc.env:TOKEN}", "`${oc.env:TOKEN}`"),
        ("x" * 200, "x" * 200, "`" + "x" * 77 + "...`"),
    ],
)
def test_values_are_shown_as_written(value: Any, text: str, shown: str) -> None:
    assert Node(value, Mark("r.yaml", 1, text)).show() == shown
