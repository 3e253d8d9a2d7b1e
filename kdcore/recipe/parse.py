"""YAML text to a tree of marked nodes. Everything that YAML lets pass and a recipe must not hold is refused here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from kdcore.errors import Problem
from kdcore.recipe.nodes import Mark, Node, Scalar, join
from kdcore.recipe.syntax import TooDeepError, explain, unreadable

MAX_NODES = 10_000
"""Most values a recipe may hold once aliases, or interpolations, are expanded."""
MAX_DEPTH = 40
"""Deepest nesting of a recipe."""

_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))


class _Loader(yaml.SafeLoader):
    """Composes nodes only, with YAML 1.2 numbers: ``3e-3`` is a float, ``012`` is 12 and ``12:30`` stays text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (the base declares it so)
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise TooDeepError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _resolver(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(_TAG + tag, re.compile(f"^(?:{pattern})$"), first.split(" "))


_resolver("bool", "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "y Y n N t T f F o O")
_resolver("null", "~|null|Null|NULL|", "~ n N ")  # the last is the empty value
_resolver("int", r"[-+]?(?:0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+|[0-9][0-9_]*)", "- + 0 1 2 3 4 5 6 7 8 9")
_resolver(
    "float",
    r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))"
    r"|\.(?:nan|NaN|NAN)",
    "- + 0 1 2 3 4 5 6 7 8 9 .",
)
_resolver("merge", "<<", "<")


def read_file(path: Path, file: str, problems: list[Problem]) -> Node | None:
    """The tree of one recipe file; ``None`` with problems added when it cannot be read.

    Args:
        path: where it is.
        file: how it is named in messages.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        problems.append(unreadable(path, file, error))
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.append(
            Problem(f"byte 0x{raw[error.start]:02x} is not UTF-8", "save the file as UTF-8", file=file, line=line)
        )
        return None
    node = parse(text, file, problems)
    if node is not None and node.value is None:
        problems.append(Problem("the file is empty", "a recipe starts with `kdcore: 1`", file=file))
    elif node is not None and not isinstance(node.value, dict):
        problems.append(
            Problem(f"holds {node.show()} at the top", "a recipe is a mapping, such as `kdcore: 1`", file=file, line=1)
        )
    return node if node is not None and isinstance(node.value, dict) else None


def parse(text: str, file: str, problems: list[Problem], *, path: str = "", override: bool = False) -> Node | None:
    """The tree of one YAML text; ``None`` where it is not YAML.

    Args:
        path: where the tree will sit in the recipe.
        override: the text is the value of an override, so lines mean nothing.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except (yaml.YAMLError, ValueError) as error:
        problems.append(explain(error, text, file, path, override))
        return None
    builder = _Builder(file, problems, override)
    if root is None:
        return Node(None, Mark(file, 0 if override else 1, "", path))
    try:
        return builder.build(root, path)
    except _TooLargeError as error:
        problems.append(error.problem)
        return None


class _TooLargeError(Exception):
    def __init__(self, problem: Problem) -> None:
        self.problem = problem


@dataclass
class _Builder:
    file: str
    problems: list[Problem]
    override: bool
    count: int = 0
    open: list[yaml.Node] = field(default_factory=list)

    def build(self, node: yaml.Node, path: str) -> Node:
        self.count += 1
        if self.count > MAX_NODES:
            hint = "aliases multiply what they stand for; write the recipe out"
            raise _TooLargeError(self._problem(node, path, f"holds more than {MAX_NODES} values", hint))
        mark = Mark(self.file, self._line(node), getattr(node, "value", "") if _is_scalar(node) else "", path)
        if any(node is above for above in self.open) or len(self.open) > MAX_DEPTH:
            self.problems.append(self._problem(node, path, "an alias stands inside what it stands for"))
            return Node(None, mark)
        if node.tag not in _KNOWN_TAGS:
            tag = node.tag.replace(_TAG, "!!")
            hint = "remove the tag: a recipe holds plain values only and never names code"
            self.problems.append(self._problem(node, path, f"carries the YAML tag `{tag}`", hint))
            return Node(None, mark)
        if isinstance(node, yaml.ScalarNode):
            return Node(self._scalar(node, path), mark)
        self.open.append(node)
        built: dict[str, Node] | list[Node]
        if isinstance(node, yaml.MappingNode):
            built = self._mapping(node, path)
        else:
            built = [self.build(item, join(path, str(index))) for index, item in enumerate(node.value)]
        self.open.pop()
        return Node(built, mark)

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Node]:
        built: dict[str, Node] = {}
        lines: dict[str, int] = {}
        inherited: dict[str, Node] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                inherited = self._inherited(value_node, path) | inherited
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            if key in built:
                first = f" (first on line {lines[key]})" if lines[key] else ""
                hint = "keep one of the two"
                self.problems.append(self._problem(key_node, join(path, key), f"the key is there twice{first}", hint))
                continue
            child = self.build(value_node, join(path, key))
            lines[key] = self._line(key_node)
            built[key] = replace(child, mark=replace(child.mark, line=lines[key]))
        return {**inherited, **built}

    def _inherited(self, node: yaml.Node, path: str) -> dict[str, Node]:
        """What the merge key ``<<`` brings in; the first of several mappings wins."""
        found: dict[str, Node] = {}
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            built = self.build(source, path)
            if not isinstance(built.value, dict):
                self.problems.append(self._problem(source, join(path, "<<"), "`<<` wants a mapping"))
            found = {**built.items, **found}
        return found

    def _key(self, node: yaml.Node, path: str) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self.problems.append(self._problem(node, path, "a key is a mapping or a list", "a key is a plain word"))
            return None
        text: str = node.value
        if node.tag != _TAG + "str":
            kind = {"bool": "a boolean", "null": "nothing"}.get(node.tag.removeprefix(_TAG), "a number")
            self.problems.append(
                self._problem(node, path, f"the key `{text}` is read as {kind} by YAML", f'quote it: "{text}"')
            )
        return text if self._is_text(node, path) else None

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Scalar:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}[text.lower()]
            if kind == "int":
                return _integer(text)
            if kind == "float":
                return _float(text)
        except (ValueError, KeyError):
            shown = text if len(text) <= 40 else f"{text[:37]}..."
            self.problems.append(self._problem(node, path, f"`{shown}` cannot be read as {kind}", "quote it for text"))
            return None
        return text if self._is_text(node, path) else None

    def _is_text(self, node: yaml.ScalarNode, path: str) -> bool:
        """Whether a file system and a terminal can take it: no NUL, no half of a surrogate pair."""
        sound = not re.search("[\0\ud800-\udfff]", node.value)
        if not sound:
            self.problems.append(self._problem(node, path, "holds a NUL or a lone surrogate", "remove the escape"))
        return sound

    def _line(self, node: yaml.Node) -> int:
        return 0 if self.override else int(node.start_mark.line) + 1

    def _problem(self, node: yaml.Node, path: str, message: str, hint: str = "") -> Problem:
        return Problem(message, hint, path, self.file, self._line(node))


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _integer(text: str) -> int:
    digits = text.replace("_", "").lstrip("+-")
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2].lower(), 10)
    return (-1 if text.startswith("-") else 1) * int(digits if base == 10 else digits[2:], base)


def _float(text: str) -> float:
    lowered = text.replace("_", "").lower()
    return float(lowered.replace(".inf", "inf").replace(".nan", "nan"))
