"""Recipe files and overrides to one plain, resolved document that still knows where everything was written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.errors import Problem, RecipeError
from kdcore.recipe.interpolation import BrokenReferenceError, check_interpolations, copy_here, resolve
from kdcore.recipe.nodes import Mark, Merge, Node, join, plain
from kdcore.recipe.overrides import apply_overrides
from kdcore.recipe.parse import read_file


@dataclass(frozen=True)
class Document:
    """A recipe, merged and resolved, not yet checked.

    Attributes:
        source: as merged, with interpolations unresolved: what may be stored and logged.
        data: the same with interpolations resolved; may hold secrets.
        marks: dotted path in ``data`` -> where it was written.
        files: the recipe files, as named.
        overrides: as typed.
        warnings: what merging dropped.
    """

    source: dict[str, Any]
    data: dict[str, Any]
    marks: dict[str, Mark]
    files: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()

    def tree(self) -> Node:
        """``data`` as a tree of marked nodes."""
        return self._node(self.data, "")

    def _node(self, value: Any, path: str) -> Node:
        mark = self.marks.get(path, Mark(path=path))
        if isinstance(value, dict):
            return Node({key: self._node(child, join(path, key)) for key, child in value.items()}, mark)
        if isinstance(value, list):
            return Node([self._node(child, join(path, str(index))) for index, child in enumerate(value)], mark)
        return Node(value, mark)


def load(sources: Sequence[Path], overrides: Sequence[str] = ()) -> Document:
    """Read recipe files, lay them over each other in order, apply the overrides and resolve interpolations.

    Raises:
        RecipeError: with everything that is wrong, each with file and line.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    if not sources:
        raise RecipeError([Problem("no recipe is given", "name a recipe file, or one that is shipped: quickstart")])
    files = tuple(os.path.expanduser(path) for path in sources)  # noqa: PTH111 (pathlib raises for `~nobody`)
    trees = [read_file(Path(file), file, problems) for file in files]
    root = Node({}, Mark(files[0], 1))
    for tree in trees:
        root = root if tree is None else merge_sources(root, tree, warnings)
    if None not in trees:  # an override of what was not read would only seem wrong
        root = apply_overrides(root, overrides, problems, warnings)
    problems = problems or check_interpolations(root)
    if problems:
        raise RecipeError(in_order(problems, files))
    data, marks = resolve(root)
    return Document(plain(root), data, marks, files, tuple(overrides), tuple(warnings))


def merge_sources(old: Node, new: Node, warnings: list[Problem]) -> Node:
    """A later recipe laid over an earlier one.

    Where a mapping meets an interpolation, it is laid over a copy of what that points at *after* the merge: the
    order of the keys in the later recipe does not matter.
    """
    merged = Merge([], lambda node: node)(old, new)

    def expand(node: Node) -> Node:
        try:
            return copy_here(merged, node)
        except BrokenReferenceError:  # stays as it is and is reported with all other interpolations
            return node

    return Merge(warnings, expand)(old, new)


def in_order(problems: Sequence[Problem], files: Sequence[str]) -> list[Problem]:
    """Sorted by file in reading order, then line; overrides come last. Equal problems once."""
    rank = {file: index for index, file in enumerate(files)}
    return sorted(dict.fromkeys(problems), key=lambda problem: (rank.get(problem.file, len(rank)), problem.line))
