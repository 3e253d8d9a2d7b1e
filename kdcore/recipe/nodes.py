"""A recipe as a tree whose every value remembers where it was written, and how two such trees are merged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from kdcore.errors import Problem

Scalar: TypeAlias = str | int | float | bool | None

CORE_KEYS = ("weight", "at", "signal", "teacher", "schedule", "weights", "dtype")
"""Keys of the core that survive when a later source changes a slot's ``use``; all others go, with a warning."""


@dataclass(frozen=True)
class Mark:
    """Where a value was written.

    Attributes:
        file: the recipe file as it was named, or ``override `a.b=c```.
        line: 1-based line; 0 for an override or a default.
        text: a scalar as written, before YAML gave it a type and before interpolations were resolved.
        path: dotted path at which it was written (an interpolation may show it elsewhere too).
    """

    file: str = ""
    line: int = 0
    text: str = ""
    path: str = ""

    @property
    def folder(self) -> str:
        """What a relative path written here is relative to: the recipe's folder, or the current one for an override."""
        return os.path.dirname(os.path.abspath(self.file)) if self.line else os.getcwd()  # noqa: PTH100, PTH109, PTH120

    @property
    def interpolated(self) -> bool:
        """Whether the value came from an interpolation, so that it must not be printed (it may be a secret)."""
        return "${" in self.text


@dataclass(frozen=True, eq=False)
class Node:
    """One value of a recipe: a mapping or a list of nodes, or a scalar."""

    value: dict[str, Node] | list[Node] | Scalar
    mark: Mark = Mark()

    @property
    def items(self) -> dict[str, Node]:
        """The children of a mapping; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    def children(self) -> Iterator[tuple[str, Node]]:
        """Key (or index, as text) and node of every child."""
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, list):
            yield from ((str(index), node) for index, node in enumerate(self.value))

    def get(self, key: str) -> Node | None:
        """The child of a mapping or a list, if it is there."""
        return dict(self.children()).get(key)

    def show(self) -> str:
        """The value as a message may print it: scalars as written, never what the environment put in."""
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        if self.value is None and not self.mark.text:
            return "empty"
        text = self.mark.text or repr(self.value)
        return f"`{text}`" if len(text) <= 80 else f"`{text[:77]}...`"


def join(path: str, key: str) -> str:
    """``a.b`` and ``c`` to ``a.b.c``."""
    return f"{path}.{key}" if path else key


def plain(node: Node) -> Any:
    """The tree as dicts, lists and scalars."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


@dataclass(frozen=True)
class Merge:
    """Lays later sources over earlier ones: mappings merge deep, lists and scalars replace.

    A later mapping that changes ``use`` replaces the slot but for :data:`CORE_KEYS`; what that dropped is added
    to ``warnings``. A mapping that meets an interpolation is laid over what ``expand`` makes of it, a copy of what
    it points at; where ``expand`` gives it back unchanged, it stays.
    """

    warnings: list[Problem]
    expand: Callable[[Node], Node]

    def __call__(self, old: Node, new: Node) -> Node:
        if not isinstance(new.value, dict):
            return new
        old = self.expand(old)
        if is_reference(old):
            return old
        if not isinstance(old.value, dict):
            return new
        kept = self._kept(old, new)
        merged = dict(kept)
        for key, child in new.value.items():
            merged[key] = self(kept[key], child) if key in kept else child
        return Node(merged, old.mark if kept is old.value else replace(new.mark, path=old.mark.path))

    def _kept(self, old: Node, new: Node) -> dict[str, Node]:
        """The children of the old mapping that the new one is merged with."""
        before, after = old.items.get("use"), new.items.get("use")
        if before is None or after is None or before.value == after.value:
            return old.items
        kept = {key: child for key, child in old.items.items() if key in CORE_KEYS}
        dropped = [key for key in old.items if key not in (*kept, *new.items)]
        if dropped:
            names = ", ".join(f"`{key}`" for key in dropped)
            self.warnings.append(
                Problem(
                    f"changes from {before.show()} to {after.show()}, which drops {names}",
                    path=after.mark.path,
                    file=after.mark.file,
                    line=after.mark.line,
                    level="warning",
                )
            )
        return kept


def is_reference(node: Node) -> bool:
    """Whether the whole value is one interpolation of another node, such as ``${models.student}``."""
    return reference_keys(node) is not None


def reference_keys(node: Node) -> Sequence[str] | None:
    """``["models", "student"]`` for ``${models.student}``, ``None`` for anything else."""
    text = node.value
    if not isinstance(text, str) or not text.startswith("${") or not text.endswith("}"):
        return None
    inner = text[2:-1]
    if not inner or any(character in "${}:[]() \t\n'\"\\," for character in inner):
        return None
    keys = inner.split(".")
    return keys if all(keys) else None
