"""Overrides from the command line: ``a.b=c`` sets, ``~a.b`` deletes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdcore.errors import Problem, did_you_mean
from kdcore.recipe.interpolation import BrokenReferenceError, copy_here, follow
from kdcore.recipe.nodes import Mark, Merge, Node
from kdcore.recipe.parse import parse

PATH = re.compile(r"[^\W\d][\w-]*(?:\.[\w-]+)*")
"""A dotted path as an override may name it."""

REPLACED = ("losses", "taps", "metrics", "callbacks", "prepare")
"""Sections that a stage replaces as a whole instead of merging into the recipe's."""


class OverrideError(Exception):
    """An override cannot be applied."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True)
class Override:
    """One override: where, and the new value; ``None`` deletes."""

    keys: tuple[str, ...]
    value: Node | None
    mark: Mark


def parse_override(text: str, problems: list[Problem]) -> Override | None:
    """Read ``a.b=c`` or ``~a.b``; ``c`` is YAML on one line (a scalar, ``[1, 2]`` or ``{use: mse}``)."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    file = f"override `{shown}`"
    name, equals, value = text.removeprefix("~").partition("=")
    deletes = text.startswith("~")
    if not PATH.fullmatch(name) or deletes == bool(equals):
        problems.append(Problem("is not understood", "write a.b=value to set, or ~a.b to delete", file=file))
        return None
    mark = Mark(file, 0, value, name)
    if deletes:
        return Override(tuple(name.split(".")), None, mark)
    before = len(problems)
    node = parse(value, file, problems, path=name, override=True)
    return None if node is None or len(problems) > before else Override(tuple(name.split(".")), node, mark)


def apply_overrides(root: Node, texts: Sequence[str], problems: list[Problem], warnings: list[Problem]) -> Node:
    """The tree after all overrides, in order. What cannot be applied is skipped and added to ``problems``."""
    for text in texts:
        override = parse_override(text, problems)
        if override is None:
            continue
        try:
            root = apply(root, override, warnings)
        except (OverrideError, BrokenReferenceError) as error:
            problems.append(Problem(error.message, error.hint, override.mark.path, override.mark.file))
    return root


def apply(root: Node, override: Override, warnings: list[Problem]) -> Node:
    """The tree after one override.

    Raises:
        OverrideError: it would do something else than it says.
        BrokenReferenceError: it passes through an interpolation that leads nowhere.
    """
    _refuse_partial_section(root, override.keys)
    if override.value is None:
        return _edit(root, root, override.keys, _delete)
    return assign(root, override.keys, override.value, warnings)


def assign(root: Node, keys: Sequence[str], value: Node, warnings: list[Problem]) -> Node:
    """The tree with ``value`` merged in at ``keys``, by the same rules as a later source.

    Where the way leads below an interpolation, what that points at is copied there first, so that only this end
    changes.

    Raises:
        OverrideError: a list has no such index.
        BrokenReferenceError: the way leads through an interpolation that leads nowhere.
    """

    merge = Merge(warnings, lambda node: copy_here(root, node))

    def put(parent: Node, key: str) -> Node:
        if isinstance(parent.value, list):
            return _with_item(parent, key, lambda old: merge(old, value))
        return merge(parent, Node({key: value}, value.mark))

    return _edit(root, root, keys, put)


def _edit(root: Node, node: Node, keys: Sequence[str], change: Callable[[Node, str], Node]) -> Node:
    """The tree with ``change(parent, last key)`` in the place of the parent that ``keys`` lead to."""
    node = copy_here(root, node)
    key, *rest = keys
    if not rest:
        return change(node, key)
    if isinstance(node.value, list):
        return _with_item(node, key, lambda old: _edit(root, old, rest, change))
    child = node.items.get(key, Node({}, node.mark))
    return Node({**node.items, key: _edit(root, child, rest, change)}, node.mark)


def _with_item(node: Node, key: str, change: Callable[[Node], Node]) -> Node:
    items = [child for _, child in node.children()]
    if node.get(key) is None:
        raise OverrideError(f"there is no item `{key}` in a list of {len(items)}", "items count from 0")
    items[int(key)] = change(items[int(key)])
    return Node(items, node.mark)


def _delete(parent: Node, key: str) -> Node:
    if key not in parent.items:
        raise OverrideError(f"there is no `{key}` to delete", did_you_mean(key, parent.items))
    return Node({name: child for name, child in parent.items.items() if name != key}, parent.mark)


def _refuse_partial_section(root: Node, keys: Sequence[str]) -> None:
    """One entry under ``stages.X.losses`` would silently replace all that the stage inherits."""
    if len(keys) < 4 or keys[0] != "stages" or keys[2] not in REPLACED:
        return
    stages = follow(root, root.items.get("stages", Node({})))
    stage = follow(root, stages.items.get(keys[1], Node({})))
    if keys[2] not in stage.items:
        section = keys[2]
        raise OverrideError(
            f"stage `{keys[1]}` has no `{section}` of its own, so this would replace all it inherits",
            f"override `{'.'.join(keys[2:])}`, or give the stage its own: stages.{keys[1]}.{section}={{...}}",
        )
