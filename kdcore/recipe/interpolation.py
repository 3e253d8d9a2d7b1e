"""Interpolations: ``${models.student}`` for a whole node, ``${oc.env:NAME}`` anywhere in a text, and nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdcore.errors import Problem, did_you_mean
from kdcore.recipe.nodes import Mark, Node, join, plain, reference_keys
from kdcore.recipe.parse import MAX_DEPTH, MAX_NODES

_ENV = re.compile(r"\$\{oc\.env:(?P<name>[A-Za-z_]\w*)(?P<default>,[^${}]+)?\}")
_FORMS = "a whole value may be `${a.b.c}`; `${oc.env:NAME}` or `${oc.env:NAME,default}` may stand anywhere in a text"


class BrokenReferenceError(Exception):
    """An interpolation leads nowhere, or back to itself."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def follow(root: Node, node: Node, seen: frozenset[str] = frozenset()) -> Node:
    """The node that an interpolation finally points at; any other node is returned as it is.

    Raises:
        BrokenReferenceError: there is no such node, or the way to it leads in a circle.
    """
    while (keys := reference_keys(node)) is not None:
        text = str(node.value)
        if text in seen:
            raise BrokenReferenceError(f"`{text}` leads back to itself", "write the value out at one of the places")
        seen |= {text}
        node = _walk(root, keys, text, seen)
    return node


def _walk(root: Node, keys: Sequence[str], text: str, seen: frozenset[str]) -> Node:
    node = root
    for depth, key in enumerate(keys):
        node = follow(root, node, seen)
        child = node.get(key)
        if child is None:
            there = ".".join(keys[:depth]) or "the recipe"
            known = [name for name, _ in node.children()]
            raise BrokenReferenceError(f"`{text}` points at nothing: no `{key}` in {there}", did_you_mean(key, known))
        node = child
    return node


def copy_here(root: Node, node: Node) -> Node:
    """What an interpolation points at, as if it had been written in its place; any other node as it is.

    Raises:
        BrokenReferenceError: as :func:`follow`.
    """
    end = follow(root, node)
    return end if end is node else Node(end.value, replace(node.mark, text=end.mark.text))


def environment_values(texts: Iterable[str]) -> dict[str, str]:
    """What the environment variables named in these texts hold -> how a recipe names them."""
    found = {match["name"] for text in texts for match in _ENV.finditer(text)}
    return {os.environ[name]: f"${{oc.env:{name}}}" for name in sorted(found) if os.environ.get(name)}


def check_interpolations(root: Node) -> list[Problem]:
    """Everything that would keep the tree from being resolved: forms, targets, circles, the environment, size."""
    problems = [problem for node in _all(root) for problem in _check_text(root, node)]
    if not problems:
        try:
            _Size(root).of(root)
        except _ExpansionError as error:
            problems.append(_at(error.node, error.message, error.hint))
    return problems


def resolve(root: Node) -> tuple[Any, dict[str, Mark]]:
    """Plain data with every interpolation resolved, and the mark of each dotted path in it.

    The tree must have passed :func:`check_interpolations`.
    """
    data = OmegaConf.to_container(OmegaConf.create(plain(root)), resolve=True)
    marks: dict[str, Mark] = {}
    _mark(root, root, "", marks)
    return data, marks


def _mark(root: Node, node: Node, path: str, marks: dict[str, Mark]) -> None:
    end = follow(root, node)
    # a scalar is at fault where it is written; a mapping that lacks something, where it is used
    marks[path] = end.mark if not isinstance(end.value, dict | list) else replace(node.mark, text="")
    for key, child in end.children():
        _mark(root, child, join(path, key), marks)


def _all(node: Node) -> Iterator[Node]:
    yield node
    for _, child in node.children():
        yield from _all(child)


def _check_text(root: Node, node: Node) -> Iterator[Problem]:
    text = node.value
    if not isinstance(text, str):
        return
    if text == "???":
        yield _at(node, "is still to be given (`???`)", f"give it: {node.mark.path}=...")
    elif reference_keys(node) is not None:
        try:
            follow(root, node)
        except BrokenReferenceError as error:
            yield _at(node, error.message, error.hint)
    elif "${" in _ENV.sub("", text):
        yield _at(node, f"holds an interpolation that recipes do not know: {node.show()}", _FORMS)
    elif "${" in text:
        yield from _check_environment(node, text)


def _check_environment(node: Node, text: str) -> Iterator[Problem]:
    missing = [m["name"] for m in _ENV.finditer(text) if m["name"] not in os.environ and m["default"] is None]
    for name in missing:
        hint = f"export {name}=..., or give a default: ${{oc.env:{name},default}}"
        yield _at(node, f"the environment variable `{name}` is not set", hint)
    if missing:
        return
    try:
        OmegaConf.to_container(OmegaConf.create({"text": text}), resolve=True)
    except OmegaConfBaseException:
        yield _at(node, f"the default in {node.show()} cannot be read", "put it in quotes: ${oc.env:NAME,'a, b'}")


def _at(node: Node, message: str, hint: str) -> Problem:
    return Problem(message, hint, node.mark.path, node.mark.file, node.mark.line)


class _ExpansionError(Exception):
    def __init__(self, node: Node, message: str, hint: str) -> None:
        self.node, self.message, self.hint = node, message, hint


class _Size:
    """How many values, and how many levels, a node holds once expanded; computed without expanding it."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self._known: dict[int, tuple[int, int]] = {}
        self._open: list[Node] = []

    def of(self, node: Node) -> tuple[int, int]:
        end = follow(self._root, node)
        if any(end is above for above in self._open):
            raise _ExpansionError(node, f"{node.show()} holds the very place where it is written", "point at a part")
        if id(end) not in self._known:
            self._open.append(end)
            self._check(node, 1, len(self._open))
            sizes = [self.of(child) for _, child in end.children()]
            self._open.pop()
            self._known[id(end)] = 1 + sum(size for size, _ in sizes), 1 + max((deep for _, deep in sizes), default=0)
        size, deep = self._known[id(end)]
        self._check(node, size, deep)
        return size, deep

    def _check(self, node: Node, size: int, deep: int) -> None:
        hint = "interpolations multiply what they point at; write the recipe out"
        if size > MAX_NODES:
            raise _ExpansionError(node, f"expands to more than {MAX_NODES} values", hint)
        if deep > MAX_DEPTH:
            raise _ExpansionError(node, f"expands to more than {MAX_DEPTH} levels", hint)
