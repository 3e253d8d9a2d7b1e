"""Interpolations: what they may look like, where they may lead, and what must never be printed."""

from __future__ import annotations

from typing import Any

import pytest

from kdcore.recipe.interpolation import BrokenReferenceError, check_interpolations, copy_here, follow, resolve
from kdcore.recipe.nodes import Node, plain
from kdcore.recipe.parse import MAX_DEPTH, MAX_NODES, parse


def tree(text: str) -> Node:
    node = parse(text, "r.yaml", [])
    assert node is not None
    return node


def data(text: str) -> Any:
    root = tree(text)
    assert check_interpolations(root) == []
    return resolve(root)[0]


def problems(text: str) -> list[str]:
    return [str(problem) for problem in check_interpolations(tree(text))]


def test_whole_nodes_lists_and_chains_are_resolved() -> None:
    text = "a: {l: [1, {q: 3}]}\nb: ${a.l}\nc: ${b.1.q}\nd: ${a}\ne: ${d.l.0}\nk-1: ${c}\nf: ${k-1}\n"
    assert data(text) == {
        "a": {"l": [1, {"q": 3}]},
        "b": [1, {"q": 3}],
        "c": 3,
        "d": {"l": [1, {"q": 3}]},
        "e": 1,
        "k-1": 3,
        "f": 3,
    }


def test_the_environment_fills_text_and_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTEST_ROOT", "/data/${not.one}")
    monkeypatch.delenv("KDTEST_NONE", raising=False)
    text = "a: ${oc.env:KDTEST_ROOT}/x\nb: ${oc.env:KDTEST_NONE,/tmp/d}\n"
    text += "c: ${oc.env:KDTEST_NONE,4}\nd: '${oc.env:KDTEST_NONE,null}'"
    assert data(text) == {"a": "/data/${not.one}/x", "b": "/tmp/d", "c": "4", "d": None}


FORMS = "a whole value may be `${a.b.c}`"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: ${b}", "r.yaml:1: a: `${b}` points at nothing: no `b` in the recipe"),
        ("m: {student: 1}\na: ${m.studnt}", "no `studnt` in m\n    did you mean `student`?"),
        ("m: [1]\na: ${m.3}", "`${m.3}` points at nothing: no `3` in m"),
        ("a: 1\nb: ${a.c}", "`${a.c}` points at nothing: no `c` in a"),
        ("a: ${b}\nb: ${a}", "r.yaml:1: a: `${b}` leads back to itself"),
        ("a: ${a}", "`${a}` leads back to itself"),
        ("a: ${b.x}\nb: ${a.y}", "leads back to itself"),
        ("m:\n  a: ${m}", "r.yaml:2: m.a: `${m}` holds the very place where it is written"),
        ("m:\n  a: {x: ['${m.b}']}\n  b: {y: '${m.a}'}", "holds the very place where it is written"),
        ("a: 1\nb: x-${a}", f"r.yaml:2: b: holds an interpolation that recipes do not know: `x-${{a}}`\n    {FORMS}"),
        ("a: ${.b}", FORMS),
        ("a: ${now:%Y}", FORMS),
        ("a: ${oc.decode:1}", FORMS),
        ("a: ${oc.env:}", FORMS),
        ("a: ${oc.env:A-B}", FORMS),
        ("a: ${b", FORMS),
        ("a: ${oc.env:KDTEST_NONE,${b}}", FORMS),
        ("a: ${oc.env:KDTEST_NONE}", "`KDTEST_NONE` is not set\n    export KDTEST_NONE=..., or give a default"),
        ("a: '${oc.env:KDTEST_NONE,a, b, c}'", "the default in `${oc.env:KDTEST_NONE,a, b, c}` cannot be read"),
        ("a: ???", "r.yaml:1: a: is still to be given (`???`)\n    give it: a=..."),
    ],
)
def test_what_cannot_be_resolved_is_named(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDTEST_NONE", raising=False)
    assert any(message in problem for problem in problems(text)), problems(text)


def test_no_message_prints_what_the_environment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTEST_TOKEN", "s3cret")
    found = problems("a: ${oc.env:KDTEST_TOKEN}${b}\nc: '${oc.env:KDTEST_TOKEN,a, b}'")
    assert len(found) == 2
    assert "s3cret" not in "".join(found)


def test_interpolations_that_multiply_are_stopped_before_they_are_expanded() -> None:
    rows = ["a0: [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: [" + ", ".join([f"'${{a{i - 1}}}'"] * 10) + "]" for i in range(1, 30)]
    found = problems("\n".join(rows))
    assert len(found) == 1
    assert f"expands to more than {MAX_NODES} values" in found[0]


@pytest.mark.parametrize("order", [1, -1])
def test_interpolations_that_nest_too_deeply_are_stopped(order: int) -> None:
    rows = [f"a{i}: ['${{a{i + 1}}}']" for i in range(500)][::order]
    found = problems("\n".join([*rows, "a500: 1"]))
    assert len(found) == 1
    assert f"expands to more than {MAX_DEPTH} levels" in found[0]


def test_a_scalar_is_marked_where_it_is_written_and_a_mapping_where_it_is_used() -> None:
    root = tree("lr: 0.1\nstudent:\n  width: 007\nalone: ${student}\nrate: ${lr}\n")
    _, marks = resolve(root)
    assert (marks["alone"].line, marks["alone"].path) == (4, "alone")
    assert (marks["alone.width"].line, marks["alone.width"].text, marks["alone.width"].path) == (
        3,
        "007",
        "student.width",
    )
    assert (marks["rate"].line, marks["rate"].text) == (1, "0.1")


def test_a_copy_stands_where_the_interpolation_stood() -> None:
    root = tree("student:\n  width: 2\nalone: ${student}\n")
    copy = copy_here(root, root.items["alone"])
    assert plain(copy) == {"width": 2}
    assert (copy.mark.line, copy.mark.path) == (3, "alone")
    assert copy_here(root, root.items["student"]) is root.items["student"]


def test_following_nothing_is_an_error_with_a_hint() -> None:
    root = tree("student: 1\nalone: ${studnet}\n")
    with pytest.raises(BrokenReferenceError, match="points at nothing") as caught:
        follow(root, root.items["alone"])
    assert caught.value.hint == "did you mean `student`?"
