"""Names to components: what every plugin, and the core itself, has added. Imports nothing heavy."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kdcore.errors import PluginError, Problem, did_you_mean
from kdcore.hookspecs import KINDS, Kind, Target

_LAZY = re.compile(r"\w+(\.\w+)*:\w+")


@dataclass(frozen=True)
class Parameter:
    """A keyword that a recipe may set: its name, annotation as written, and whether it must be given."""

    name: str
    annotation: str
    required: bool
    default: str = ""


@dataclass(frozen=True)
class Component:
    """One registered thing.

    Its source is read as text, so that a recipe can be checked without importing torch; for that a lazy
    target names the file that *defines* a function or a class; what a class leaves out is looked for in its bases.
    """

    kind: Kind
    name: str
    target: Target
    plugin: str

    def load(self) -> Callable[..., Any]:
        """The callable itself; imports its module.

        Raises:
            PluginError: the module does not import, or has no such attribute.
        """
        if callable(self.target):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # a third party's import may raise anything
            raise PluginError(
                [
                    Problem(
                        f"{self.kind} `{self.name}` of plugin `{self.plugin}` cannot be imported from "
                        f"`{self.target}`: {type(error).__name__}: {error}",
                        f"import {module} in a Python shell to see the whole traceback",
                    )
                ]
            ) from error
        return loaded

    def parameters(self) -> dict[str, Parameter]:
        """The keyword-only parameters of the function, or of the class's ``__init__``.

        Raises:
            PluginError: the target's file cannot be read, or does not define it.
        """
        node = self._definition()
        found = self._method(node, "__init__") if isinstance(node, ast.ClassDef) else node
        return {} if found is None else _keyword_only(found)

    def keywords_of(self, method: str) -> dict[str, Parameter]:
        """The keyword-only parameters of one method of the class; empty for a function."""
        node = self._definition()
        found = self._method(node, method) if isinstance(node, ast.ClassDef) else None
        return {} if found is None else _keyword_only(found)

    def literal(self, attribute: str, default: Any = None) -> Any:
        """The value of a class attribute that is written as a literal (``frozenset({...})`` counts as one).

        Raises:
            PluginError: the attribute is there, but computed.
        """
        node = self._definition()
        for owner in self._lineage(node) if isinstance(node, ast.ClassDef) else ():
            for statement in owner.body:
                target = _assigned(statement)
                if target is not None and target[0] == attribute:
                    return self._value(attribute, target[1])
        return default

    def documentation(self) -> str:
        """The docstring, or empty."""
        return ast.get_docstring(self._definition()) or ""

    def _definition(self) -> ast.ClassDef | ast.FunctionDef:
        tree, name = self._source()
        # A callable may be defined inside a function; what a lazy target names is at the top of its file.
        for node in tree.body if isinstance(self.target, str) else ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return node
        raise self._broken(
            f"`{name}` is not defined in the file its target `{self.target}` names",
            "name the file that holds its `class` or `def` statement",
        )

    def _source(self) -> tuple[ast.Module, str]:
        if isinstance(self.target, str):
            module, _, name = self.target.partition(":")
            path = locate(module)
            if path is None:
                raise self._broken(f"there is no module `{module}`", f"its target is `{self.target}`")
        else:
            name = self.target.__name__
            path = Path(inspect.getfile(self.target))
        try:
            return _parse(path), name
        except (SyntaxError, ValueError, OSError) as error:
            raise self._broken(f"its file {path} cannot be read: {error}", "") from error

    def _value(self, attribute: str, node: ast.expr) -> Any:
        try:
            return _literal(node)
        except (ValueError, TypeError) as error:
            raise self._broken(
                f"`{attribute} = {ast.unparse(node)}` is not a literal",
                "write out its value: it is read without importing the file",
            ) from error

    def _broken(self, what: str, hint: str) -> PluginError:
        return PluginError([Problem(f"{self.kind} `{self.name}` of plugin `{self.plugin}`: {what}", hint)])

    def _method(self, node: ast.ClassDef, method: str) -> ast.FunctionDef | None:
        for owner in self._lineage(node):
            for statement in owner.body:
                if isinstance(statement, ast.FunctionDef) and statement.name == method:
                    return statement
        return None

    def _lineage(self, node: ast.ClassDef) -> Iterator[ast.ClassDef]:
        """The class, then its bases, in this file or in one that it imports them from by name."""
        tree, _ = self._source()
        waiting, seen = [(tree, node)], set()
        while waiting:
            tree, node = waiting.pop(0)
            yield node
            for base in node.bases:
                found = _class(tree, base.id) if isinstance(base, ast.Name) and base.id != node.name else None
                if found is not None and found[1] not in seen:
                    seen.add(found[1])
                    waiting.append(found)


class Registry:
    """All components by kind and full name (``kl``, ``detection.fgd``)."""

    def __init__(self) -> None:
        self._components: dict[tuple[Kind, str], Component] = {}

    def add(self, plugin: str, kind: Kind, name: str, target: Target) -> None:
        """Add a component for a plugin; ``kdcore`` itself adds bare names, everyone else is prefixed.

        Raises:
            PluginError: unknown kind, a name that is no identifier, a target that is neither a function, a class
                nor ``"package.module:attribute"``, or a name added twice.
        """
        full = name if plugin == "kdcore" else f"{plugin}.{name}"
        if kind not in KINDS:
            raise _refused(f"plugin `{plugin}` adds `{full}` as a `{kind}`", did_you_mean(str(kind), KINDS))
        if not (isinstance(name, str) and name.isidentifier()):
            raise _refused(f"plugin `{plugin}` adds a {kind} named `{name}`", "use letters, digits and underscores")
        if not (
            _LAZY.fullmatch(target) if isinstance(target, str) else inspect.isroutine(target) or inspect.isclass(target)
        ):
            raise _refused(
                f"{kind} `{full}` has the target `{target}`",
                'give a function, a class or the text "package.module:attribute"',
            )
        if (kind, full) in self._components:
            raise _refused(f"plugin `{plugin}` adds the {kind} `{full}` twice", "remove one of them")
        self._components[kind, full] = Component(kind, full, target, plugin)

    def merge(self, other: Registry) -> None:
        """Take over all components of another registry, or none.

        Raises:
            PluginError: one of them is known here already.
        """
        for component in other:
            if (component.kind, component.name) in self._components:
                raise _refused(f"the {component.kind} `{component.name}` is added twice", "remove one of them")
        self._components |= other._components

    def get(self, kind: Kind, name: str) -> Component | None:
        """The component of this kind and full name, if there is one."""
        return self._components.get((kind, name))

    def names(self, kind: Kind) -> list[str]:
        """All full names of one kind, sorted."""
        return sorted(name for of, name in self._components if of == kind)

    def kinds_of(self, name: str) -> list[Kind]:
        """The kinds under which a full name is known (to say *`kl` is a loss, not a metric*)."""
        return [kind for kind, known in self._components if known == name]

    def __iter__(self) -> Iterator[Component]:
        yield from (self._components[key] for key in sorted(self._components))


def _refused(message: str, hint: str) -> PluginError:
    return PluginError([Problem(message, hint)])


def _class(tree: ast.Module, name: str) -> tuple[ast.Module, ast.ClassDef] | None:
    """A class that a file defines or imports by name, with the file that defines it."""
    for item in tree.body:
        if isinstance(item, ast.ClassDef) and item.name == name:
            return tree, item
        if isinstance(item, ast.ImportFrom) and item.module and not item.level:
            for alias in item.names:
                if (alias.asname or alias.name) == name:
                    path = locate(item.module)
                    with contextlib.suppress(SyntaxError, ValueError, OSError):
                        return None if path is None else _class(_parse(path), alias.name)
    return None


def _keyword_only(node: ast.FunctionDef) -> dict[str, Parameter]:
    found = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        found[argument.arg] = Parameter(
            argument.arg, annotation, default is None, "" if default is None else ast.unparse(default)
        )
    return found


def _assigned(statement: ast.stmt) -> tuple[str, ast.expr] | None:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        return statement.target.id, statement.value
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id, statement.value
    return None


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "frozenset":
        return frozenset(ast.literal_eval(node.args[0])) if node.args else frozenset()
    return ast.literal_eval(node)


def locate(module: str) -> Path | None:
    """The file of a module, found without importing any of its parent packages."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a finder that fails, or a module put into sys.modules by hand
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for location in spec.submodule_search_locations or ():
        base = Path(location).joinpath(*rest)
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
