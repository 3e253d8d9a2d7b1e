"""Whether a value of a recipe is what an annotation, read as text, asks for."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from kdcore.recipe.nodes import Node
from kdcore.recipe.parse import parse

_LISTS = {"list": list, "List": list, "Sequence": list, "Iterable": list, "tuple": tuple, "Tuple": tuple}
_DICTS = frozenset({"dict", "Dict", "Mapping"})
_SAID = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "None": "null",
    "Path": "a path",
    "Scheduled": "a number or a schedule",
}


class MismatchError(Exception):
    """A value is not what the annotation asks for.

    Attributes:
        node: the very value at fault, which may be deep inside the one that was given.
        wanted: what should be there, in words.
    """

    def __init__(self, node: Node, wanted: str) -> None:
        super().__init__(wanted)
        self.node = node
        self.wanted = wanted


def _no_schedule(node: Node) -> Any:
    raise MismatchError(node, "a number")


@dataclass
class Converter:
    """Turns nodes into plain values, guided by annotations.

    Args:
        schedule: makes a slot of a mapping given for a parameter annotated ``Scheduled``.

    Attributes:
        rewritten: path -> the text or absolute path that took the place of what YAML read there, unless it came
            from an interpolation.
    """

    schedule: Callable[[Node], Any] = _no_schedule
    rewritten: dict[str, str] = field(default_factory=dict)

    def convert(self, node: Node, annotation: str) -> Any:
        """The value as the annotation wants it. An annotation that is not understood accepts everything.

        An int passes for a float; a bool is no number. Where text is wanted, what YAML read as something else
        is taken as it was written (``007``), and a value from the environment is read as YAML where text is not
        wanted. A ``Path`` becomes absolute, against the recipe that wrote it.

        Raises:
            MismatchError: it does not fit.
        """
        return self._convert(node, _parsed(annotation))

    def _convert(self, node: Node, wanted: ast.expr) -> Any:
        options = list(_options(wanted))
        for take in (self._exact, self._bent):
            for option in options:
                try:
                    return take(node, option)
                except MismatchError as error:
                    mismatch = error
                    if len(options) == 1 and take == self._bent:
                        raise
                    deeper = mismatch if mismatch.node is not node else None
        raise deeper or MismatchError(node, describe(wanted))
