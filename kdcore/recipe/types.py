"""Whether a value of a recipe is what an annotation, read as text, asks for."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from kdcore.recipe.nodes import Node, Scalar, plain
from kdcore.recipe.parse import parse

_SEQUENCES: dict[str, type] = {"list": list, "List": list, "Sequence": list, "Iterable": list}
_TUPLES = frozenset({"tuple", "Tuple"})
_MAPPINGS = frozenset({"dict", "Dict", "Mapping"})
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "None": "null",
    "Path": "a path",
    "Scheduled": "a number or a schedule",
    "Data": "a mapping such as {use: NAME}",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
}
_PLURALS = {
    "a whole number": "whole numbers",
    "a number": "numbers",
    "text": "texts",
    "a path": "paths",
    "a mapping": "mappings",
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


NESTED: dict[str, Literal["schedule", "data"]] = {"Scheduled": "schedule", "Data": "data"}
"""Annotations that take a slot, and the kind of component it names."""


def _no_slot(kind: Literal["schedule", "data"], node: Node) -> Any:
    raise MismatchError(node, "a number" if kind == "schedule" else "text")


@dataclass
class Converter:
    """Turns nodes into plain values, guided by annotations.

    Args:
        slot: makes a slot of a mapping given for a parameter annotated as one of ``NESTED``.

    Attributes:
        rewritten: path -> the text, or absolute path, that took the place of what YAML read there.
    """

    slot: Callable[[Literal["schedule", "data"], Node], Any] = _no_slot
    rewritten: dict[str, str] = field(default_factory=dict)

    def convert(self, node: Node, annotation: str) -> Any:
        """The value as the annotation wants it; an annotation that is not understood accepts everything.

        An int passes for a float; a bool is no number. Where text is wanted, what YAML read as something else is
        taken as it was written (``007``); where no text is wanted, one from the environment is read as YAML. A
        ``Path`` becomes absolute, against the folder of the recipe that wrote it.

        Raises:
            MismatchError: it does not fit.
        """
        return self._convert(node, _parsed(annotation))

    def _convert(self, node: Node, wanted: ast.expr) -> Any:
        options = list(_options(wanted))
        if not all(_is_known(option) for option in options):
            return plain(node)
        deeper: list[MismatchError] = []
        for attempt in (self._exactly, self._as_written, self._from_environment):
            for option in options:
                try:
                    return attempt(node, option)
                except MismatchError as error:
                    if error.node is not node:
                        deeper.append(error)
        raise deeper[0] if deeper else MismatchError(node, describe(wanted))

    def _exactly(self, node: Node, option: ast.expr) -> Any:
        name = _name(option)
        if name == "Literal":
            return self._literal(node, option)
        if isinstance(node.value, dict | list):
            return self._container(node, option)
        value = node.value
        if name == "None" and value is None:
            return None
        if name == "bool" and isinstance(value, bool):
            return value
        if name == "int" and isinstance(value, int) and not isinstance(value, bool):
            return value
        if name in ("float", "Scheduled") and isinstance(value, int | float) and not isinstance(value, bool):
            return _as_float(node, value)
        if name == "str" and isinstance(value, str):
            return value
        if name == "Path" and isinstance(value, str) and value:
            return self._path(node, value)
        raise MismatchError(node, describe(option))

    def _literal(self, node: Node, option: ast.expr) -> Any:
        for choice in _choices(option):
            if type(choice) is type(node.value) and choice == node.value:
                return choice
        raise MismatchError(node, describe(option))

    def _container(self, node: Node, option: ast.expr) -> Any:
        name, inner = _name(option), _arguments(option)
        if name in NESTED and isinstance(node.value, dict):
            return self.slot(NESTED[name], node)
        if name in _MAPPINGS and isinstance(node.value, dict):
            wanted = inner[1] if len(inner) == 2 else _ANY
            return {key: self._convert(child, wanted) for key, child in node.value.items()}
        if name in _SEQUENCES and isinstance(node.value, list):
            return [self._convert(child, inner[0] if inner else _ANY) for child in node.value]
        if name in _TUPLES and isinstance(node.value, list):
            return self._tuple(node, node.value, inner)
        raise MismatchError(node, describe(option))

    def _tuple(self, node: Node, items: list[Node], inner: list[ast.expr]) -> tuple[Any, ...]:
        if not inner:
            return tuple(plain(item) for item in items)
        if _is_open(inner):
            return tuple(self._convert(item, inner[0]) for item in items)
        if len(items) != len(inner):
            raise MismatchError(node, f"a list of {len(inner)} values")
        return tuple(self._convert(item, wanted) for item, wanted in zip(items, inner, strict=True))

    def _as_written(self, node: Node, option: ast.expr) -> Any:
        """Text is wanted and YAML read something else: ``007``, ``off``, ``1.10``."""
        text = node.mark.text
        if isinstance(node.value, str | dict | list) or not text or node.mark.interpolated:
            raise MismatchError(node, describe(option))
        value = self._instead(node, text, option)
        self.rewritten[node.mark.path] = str(value)
        return value

    def _from_environment(self, node: Node, option: ast.expr) -> Any:
        """No text is wanted, but an environment variable holds nothing else."""
        if not (isinstance(node.value, str) and node.mark.interpolated):
            raise MismatchError(node, describe(option))
        read = parse(node.value, "", [])
        if read is None or isinstance(read.value, dict | list):
            raise MismatchError(node, describe(option))
        return self._instead(node, read.value, option)

    def _instead(self, node: Node, value: Scalar, option: ast.expr) -> Any:
        try:
            return self._exactly(replace(node, value=value), option)
        except MismatchError:
            raise MismatchError(node, describe(option)) from None

    def _path(self, node: Node, text: str) -> Path:
        path = absolute(text, node.mark.folder)
        if not node.mark.interpolated:
            self.rewritten[node.mark.path] = path
        return Path(path)


def absolute(text: str, folder: str) -> str:
    """A path as a recipe writes it, ``~`` expanded and made absolute against ``folder``."""
    # os.path rather than pathlib: it raises nothing for `~nobody` and looks at no file
    return os.path.normpath(os.path.join(folder, os.path.expanduser(text)))  # noqa: PTH111, PTH118


def describe(annotation: str | ast.expr) -> str:
    """An annotation in words: ``int | None`` is *a whole number or null*."""
    words: list[str] = []
    for option in _options(_parsed(annotation) if isinstance(annotation, str) else annotation):
        name, inner = _name(option), _arguments(option)
        if name == "Literal":
            words.append("one of " + ", ".join(f"`{choice}`" for choice in _choices(option)))
        elif name in _MAPPINGS:
            words.append("a mapping")
        elif name in _TUPLES and inner and not _is_open(inner):
            words.append(f"a list of {len(inner)} values")
        elif (name in _SEQUENCES or name in _TUPLES) and inner:
            item = describe(inner[0])
            words.append(f"a list of {_PLURALS.get(item, item)}")
        else:
            words.append(_WORDS.get(name, "a list" if name in _SEQUENCES else name))
    return " or ".join(dict.fromkeys(words))


def _as_float(node: Node, value: float) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise MismatchError(node, "a number that fits a float") from error


@cache
def _parsed(annotation: str) -> ast.expr:
    try:
        return ast.parse(annotation, mode="eval").body
    except (SyntaxError, ValueError):  # no annotation at all, or one of a newer Python
        return _ANY


_ANY = ast.Name("Any")


def _options(wanted: ast.expr) -> Iterator[ast.expr]:
    """The members of a union, however it is written; a quoted annotation is read too."""
    name, inner = _name(wanted), _arguments(wanted)
    if isinstance(wanted, ast.BinOp) and isinstance(wanted.op, ast.BitOr):
        yield from _options(wanted.left)
        yield from _options(wanted.right)
    elif isinstance(wanted, ast.Constant) and isinstance(wanted.value, str):
        yield from _options(_parsed(wanted.value))
    elif name == "Union":
        for member in inner:
            yield from _options(member)
    elif name == "Optional" and inner:
        yield from _options(inner[0])
        yield ast.Constant(None)
    else:
        yield wanted


def _is_known(option: ast.expr) -> bool:
    name = _name(option)
    if name == "Literal":
        return all(isinstance(argument, ast.Constant | ast.UnaryOp) for argument in _arguments(option))
    return name in _WORDS or name in _SEQUENCES or name in _TUPLES or name in _MAPPINGS


def _name(option: ast.expr) -> str:
    """``Path`` of ``Path`` and of ``pathlib.Path``, ``list`` of ``list[int]``, ``None`` of ``None``."""
    if isinstance(option, ast.Subscript):
        return _name(option.value)
    if isinstance(option, ast.Attribute):
        return option.attr
    if isinstance(option, ast.Name):
        return option.id
    return "None" if isinstance(option, ast.Constant) and option.value is None else ""


def _arguments(option: ast.expr) -> list[ast.expr]:
    if not isinstance(option, ast.Subscript):
        return []
    return option.slice.elts if isinstance(option.slice, ast.Tuple) else [option.slice]


def _is_open(inner: list[ast.expr]) -> bool:
    """``tuple[X, ...]``, of any length."""
    return isinstance(inner[-1], ast.Constant) and inner[-1].value is ...


def _choices(option: ast.expr) -> list[Any]:
    return [ast.literal_eval(argument) for argument in _arguments(option)]
