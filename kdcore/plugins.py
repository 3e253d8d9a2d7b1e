"""Who is present: finds plugins, loads them one by one and only when needed, and calls their hooks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from kdcore import builtin, discovery, hookspecs
from kdcore.discovery import FIRST_PARTY, GROUP, PluginInfo
from kdcore.errors import PluginError, Problem, did_you_mean
from kdcore.hookspecs import KDCORE_API, Kind, Run, Target
from kdcore.isolation import Output, explain, import_file, in_file
from kdcore.registry import Component, Registry

if TYPE_CHECKING:
    from kdcore.recipe.schema import Recipe

_HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("kdcore_"))
_EXAMPLE = "write `from kdcore.hookspecs import hookimpl` and mark `def kdcore_register(add):` with @hookimpl"


@dataclass
class Plugin:
    """A plugin once loading was tried: ``reason`` says why it is broken or disabled, ``output`` what it printed.

    It is ``needed`` once a recipe names or requires it; one that is merely loaded, to describe it, has no effect.
    """

    info: PluginInfo
    status: Literal["ok", "broken", "disabled"] = "ok"
    reason: str = ""
    output: Output = field(default_factory=Output)
    needed: bool = False

    @property
    def key(self) -> str:
        """What pluggy knows it by: its name, which only files of the user's own share."""
        return self.info.value if self.info.name == "local" else self.info.name

    @property
    def origin(self) -> str:
        """Whom to turn to: the distribution and its version, or the file."""
        return f"{self.info.distribution} {self.info.version}".strip()


class Plugins:
    """The plugins of this process, behind a typed face: nobody else calls pluggy.

    The core is there from the start, through the same hooks; an installed plugin is imported when a recipe
    first names it. ``KDCORE_PLUGINS=a,b`` allows only these (empty: none), ``KDCORE_TRACE=1`` prints hook
    calls to stderr.

    Attributes:
        registry: components of the core and of the plugins loaded so far.
    """

    def __init__(self) -> None:
        allowed = os.environ.get("KDCORE_PLUGINS")
        self._allowed = None if allowed is None else {name.strip() for name in allowed.split(",")}
        self._trace = sys.stderr if os.environ.get("KDCORE_TRACE", "0") not in ("", "0") else None
        self._pm = pluggy.PluginManager("kdcore")
        self._pm.add_hookspecs(hookspecs)
        self.registry = Registry()
        self._loaded: dict[str, Plugin] = {}
        self._files: dict[Path, Plugin] = {}
        info = PluginInfo("kdcore", "kdcore.builtin", "kdcore", discovery.core_version())
        self._core = Plugin(info, needed=True)
        self._register(self._core, builtin)

    @cached_property
    def _installed(self) -> dict[str, PluginInfo]:
        return {info.name: info for info in discovery.discover()}

    def discover(self) -> tuple[PluginInfo, ...]:
        """The installed plugins, sorted by name, without importing any."""
        return tuple(self._installed.values())

    def needed(self) -> tuple[PluginInfo, ...]:
        """The installed plugins that a recipe named or required so far, sorted by name."""
        return tuple(plugin.info for name, plugin in sorted(self._loaded.items()) if plugin.needed)

    def shipped_recipes(self) -> dict[str, Path]:
        """Recipes that come with the core (``quickstart``) and with the allowed plugins (``detection.name``)."""
        return discovery.shipped_recipes(info for info in self.discover() if self._allows(info.name))

    def find(self, kind: Kind, name: str) -> Component | Problem:
        """The component that a recipe names, loading its plugin; or what is wrong with the name, and what to do."""
        prefix, dot, rest = name.partition(".")
        if prefix == "kdcore" and dot:
            return Problem(f"the core's names have no prefix: `{name}`", f"write `{rest}`")
        problem = self._need(prefix) if dot else None
        return problem or self.registry.get(kind, name) or self._not_found(kind, name)

    def unmet(self, requirement: str) -> Problem | None:
        """Compare a line of a recipe's ``requires`` with what is installed; a plugin that it names counts as needed."""
        named = (info.name for info in self.discover() if discovery.names(requirement, info.distribution))
        return discovery.unmet(requirement) or next(filter(None, (self._need(name) for name in named)), None)

    def load_file(self, path: Path) -> None:
        """Load one file of the user's own as ``local.*`` (``--plugin ./my_losses.py``); a second time does nothing.

        Raises:
            PluginError: the file is missing, fails or has no hook; with file and line.
        """
        path = path.expanduser().absolute()
        if path in self._files:
            return
        plugin = Plugin(PluginInfo("local", str(path), str(path), ""), needed=True)
        try:
            with plugin.output.capture():
                self._register(plugin, import_file(path))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a file may raise anything, SystemExit included
            raise PluginError([in_file(path, error)]) from error
        self._files[path] = plugin

    def describe(self) -> list[dict[str, Any]]:
        """Every plugin as plain data, for ``plugins --json``; loads them all.

        Keys: ``name distribution version status reason output components``, the last by kind with full names.
        """
        for info in self.discover():
            self._load(info)
        return [self._description(plugin) for plugin in self._known()]

    def check_recipe(self, recipe: Recipe) -> list[Problem]:
        """What the needed plugins have to say about a recipe."""
        return self._ask("kdcore_check_recipe", self._known(needed=True), recipe=recipe)

    def check_environment(self) -> list[Problem]:
        """What the plugins loaded so far miss on this machine."""
        return self._ask("kdcore_check_environment", self._known())

    def configure(self, run: Run) -> None:
        """Let the needed plugins adapt one stage.

        Raises:
            PluginError: one or more of them failed; all were called.
        """
        problems = self._ask("kdcore_configure", self._known(needed=True), run=run)
        if problems:
            raise PluginError(problems)

    def _known(self, needed: bool = False) -> list[Plugin]:
        """The core, then installed plugins by name, then files in the order given."""
        plugins = [self._core, *(self._loaded[name] for name in sorted(self._loaded)), *self._files.values()]
        return [plugin for plugin in plugins if plugin.needed or not needed]

    def _allows(self, name: str) -> bool:
        return self._allowed is None or name in self._allowed

    def _load(self, info: PluginInfo) -> Plugin:
        if info.name in self._loaded:
            return self._loaded[info.name]
        plugin = Plugin(info)
        if not self._allows(info.name):
            plugin.status, plugin.reason = "disabled", "KDCORE_PLUGINS does not name it"
        elif info.reason:
            plugin.status, plugin.reason = "broken", info.reason
        else:
            try:
                with plugin.output.capture():
                    self._register(plugin, _import(info))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a plugin may raise anything, SystemExit included
                plugin.status, plugin.reason = "broken", explain(error)
        self._loaded[info.name] = plugin
        return plugin

    def _register(self, plugin: Plugin, module: object) -> None:
        """Hand a module to pluggy and take in its components: all of them, or none when anything fails."""
        if self._pm.is_registered(module):
            raise PluginError(f"its module is loaded already, as plugin `{self._pm.get_name(module)}`")
        staged = Registry()

        def add(kind: Kind, name: str, target: Target) -> None:
            if not plugin.output.loading:
                raise PluginError("`add` is only for use inside kdcore_register")
            staged.add(plugin.info.name, kind, name, target)

        try:
            self._pm.register(module, plugin.key)
            self._pm.check_pending()
            _check_marks(module, {caller.name for caller in self._pm.get_hookcallers(module) or ()})
            if self._call(plugin, "kdcore_register", add=add):
                raise PluginError("its kdcore_register returns a value; it must be a plain function that calls `add`")
            self.registry.merge(staged)
        except BaseException:
            if self._pm.is_registered(module):
                self._pm.unregister(module)
            raise

    def _call(self, plugin: Plugin, hook: str, **arguments: Any) -> list[Any]:
        """Call one plugin's implementation of a hook; what it answers, or an empty list."""
        others = [other for name, other in self._pm.list_name_plugin() if name != plugin.key]
        start = time.perf_counter()
        answers: list[Any] = self._pm.subset_hook_caller(hook, others)(**arguments)
        if self._trace:
            took = 1000 * (time.perf_counter() - start)
            print(f"kdcore: {plugin.info.name}: {hook} -> {answers} in {took:.1f} ms", file=self._trace)
        return answers

    def _ask(self, hook: str, plugins: Iterable[Plugin], **arguments: Any) -> list[Problem]:
        """The problems that plugins name; one that fails is a problem itself and does not stop the others."""
        problems: list[Problem] = []
        for plugin in plugins:
            if plugin.status != "ok":
                continue
            try:
                problems += _problems(plugin, hook, self._call(plugin, hook, **arguments))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a plugin may raise anything, SystemExit included
                what = f"plugin `{plugin.info.name}` fails in {hook}: {explain(error)}"
                problems.append(Problem(what, f"report it to the authors of {plugin.origin}", plugin=True))
        return problems

    def _need(self, name: str) -> Problem | None:
        """Load a plugin because a recipe needs it; the reason why that is impossible."""
        if name == "local":
            return (
                None
                if self._files
                else Problem("no plugin file is loaded", "name it with `--plugin FILE.py`", plugin=True)
            )
        if name not in self._installed:
            known = did_you_mean(name, {*self._installed, *FIRST_PARTY})
            hint = f"pip install kdcore-{name}" if name in FIRST_PARTY else known
            return Problem(f"no plugin `{name}` is installed", hint, plugin=True)
        plugin = self._load(self._installed[name])
        if plugin.status == "disabled":
            hint = f"add it to KDCORE_PLUGINS={os.environ['KDCORE_PLUGINS']}"
            return Problem(f"plugin `{name}` is disabled", hint, plugin=True)
        if plugin.status == "broken":
            what = f"plugin `{name}` ({plugin.origin}) is broken: {plugin.reason}"
            return Problem(what, "see `kdcore doctor`", plugin=True)
        plugin.needed = True
        return None

    def _not_found(self, kind: Kind, name: str) -> Problem:
        others = self.registry.kinds_of(name)
        if others:
            known = ", ".join(self.registry.names(kind))
            return Problem(f"`{name}` is {_a(others[0])}, not {_a(kind)}", f"{kind}: {known}" if known else "")
        if "." not in name:
            for info in self.discover():
                if self._load(info).status == "ok" and self.registry.get(kind, f"{info.name}.{name}"):
                    owner = f"`{name}` is {_a(kind)} of {info.distribution}"
                    return Problem(owner, f"write `{info.name}.{name}`")
        prefix, dot, own = name.rpartition(".")
        names = [
            known.removeprefix(prefix + dot) for known in self.registry.names(kind) if known.startswith(prefix + dot)
        ]
        return Problem(
            f"plugin `{prefix}` has no {kind} `{own}`" if dot else f"there is no {kind} `{name}`",
            did_you_mean(own, names),
        )

    def _description(self, plugin: Plugin) -> dict[str, Any]:
        components: dict[str, list[str]] = {}
        for component in self.registry:
            if component.plugin == plugin.info.name and plugin.status == "ok":
                components.setdefault(component.kind, []).append(component.name)
        return {
            "name": plugin.info.name,
            "distribution": plugin.info.distribution,
            "version": plugin.info.version,
            "status": plugin.status,
            "reason": plugin.reason,
            "output": plugin.output.getvalue(),
            "components": components,
        }


def _import(info: PluginInfo) -> object:
    module = metadata.EntryPoint(info.name, info.value, GROUP).load()
    speaks = getattr(module, "KDCORE_API", None)
    if speaks is None:
        hint = f"write `KDCORE_API = {KDCORE_API}` in it"
        raise PluginError([Problem(f"{info.value} does not say which KDCORE_API it is written for", hint)])
    if speaks != KDCORE_API:
        what = f"{info.value} is written for KDCORE_API {speaks!r}, this kdcore speaks {KDCORE_API}"
        raise PluginError([Problem(what, f"pip install --upgrade kdcore {info.distribution}")])
    return module


def _check_marks(module: object, marked: set[str]) -> None:
    """pluggy passes over a function that merely has a hook's name; to its author that is a plugin without effect."""
    for hook in _HOOKS:
        function = getattr(module, hook, None)
        if isinstance(function, FunctionType) and hook not in marked:
            code = function.__code__
            problem = Problem(f"`{hook}` is not marked as a hook", "put @hookimpl of kdcore.hookspecs above it")
            raise PluginError([problem.at(code.co_filename, code.co_firstlineno)])
    if not marked:
        raise PluginError([Problem("it implements no hook of kdcore", _EXAMPLE)])


def _problems(plugin: Plugin, hook: str, answers: Iterable[Any]) -> Iterator[Problem]:
    name = plugin.info.name
    for answer in answers:
        for item in answer if isinstance(answer, list | tuple) else [answer]:
            if isinstance(item, Problem):
                yield replace(item, message=f"{name}: {item.message}")
            else:
                what = f"plugin `{name}` answers {item!r} to {hook}"
                yield Problem(what, f"report it to the authors of {plugin.origin}", plugin=True)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
