"""``check_plugin``: an installed plugin as strangers meet it: by its name, its pages, its recipes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from kdcore.discovery import GROUP, PluginInfo
from kdcore.errors import PluginError
from kdcore.plugins import Plugins
from kdcore.registry import Component
from kdcore.testing.checks import Check, PromiseError, run_checks
from kdcore.testing.loss_source import check_docstring, check_literal, check_paper, check_parameters
from kdcore.testing.runner import Runner

HEAVY = (
    "torch",
    "numpy",
    "lightning",
    "torchmetrics",
    "torchvision",
    "transformers",
    "scipy",
    "sklearn",
    "pandas",
    "PIL",
)
"""What must not be imported while recipes are checked; whatever else the plugin's distribution requires joins it."""

LIGHT = r"""
import contextlib, io, sys
from importlib import import_module

heavy, module, *recipes = sys.argv[1:]


def tell(which):
    if loaded := sorted(set(heavy.split(",")) & set(sys.modules)):
        print(f"{which}: {', '.join(loaded)}")
        sys.exit()


plugin = import_module(module)
for hook, given in (("kdcore_register", [lambda *a: None]), ("kdcore_check_environment", [])):
    getattr(plugin, hook, lambda *a: None)(*given)
tell(module)
from kdcore.cli import run

for recipe in recipes:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run(["check", *recipe.splitlines()])
    tell(" ".join(recipe.splitlines()))
"""
"""Prints who imports something heavy first, a plugin's module or the check of one of its recipes; else nothing.

Whether the recipes are sound is another check's."""

SHORT = ("logger=null", "--no-probe", "--fresh", "trainer.max_steps=2")
"""Two steps of each stage. A teacher of two steps is at chance, so the checks before the first step are left out."""


@dataclass(frozen=True)
class PluginCase:
    """A plugin, by its name, and how its recipes are made small."""

    name: str
    over: Mapping[str, Sequence[str]]
    fit: Mapping[str, Sequence[str]]
    environment: Mapping[str, str]

    @property
    def info(self) -> PluginInfo:
        """What its metadata say."""
        found = next((info for info in Plugins().discover() if info.name == self.name), None)
        if found is None:
            raise PromiseError(
                f"no plugin `{self.name}` is installed: `pip install -e .` in its folder, and in its pyproject.toml "
                f'`[project.entry-points.{GROUP}]` with `{self.name} = "kdcore_{self.name}.plugin"`'
            )
        return found

    @property
    def components(self) -> list[Component]:
        """What it adds."""
        return _components(self.name)

    @property
    def recipes(self) -> list[str]:
        """The names of those that it ships."""
        return [name for name in Plugins().shipped_recipes() if name.partition(".")[0] == self.name]

    def words(self, recipe: str) -> list[str | Path]:
        """A recipe, above those that it is laid over."""
        return [*self.over.get(recipe, ()), recipe]

    @contextmanager
    def runner(self) -> Iterator[Runner]:
        """A runner in a folder of its own; what runs leave behind is a broken promise too."""
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            with tempfile.TemporaryDirectory() as folder:
                made = Runner(Path(folder))
                yield made
                made.finish()
        except AssertionError as error:
            raise PromiseError(str(error)) from error
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def check_plugin(
    name: str,
    *,
    fit: Mapping[str, Sequence[str]] | None = None,
    over: Mapping[str, Sequence[str]] | None = None,
    environment: Mapping[str, str] | None = None,
    skip: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
) -> None:
    """Check what an installed plugin promises, one promise after another.

    Args:
        name: its entry point, ``detection``.
        fit: recipes that are run for two steps, each with the overrides that make it small: ``{"detection":
            ["data.batch_size=2"]}``.
        over: recipes that are laid over others, with these: ``{"detection.fgd": ["detection"]}``.
        environment: variables that its recipes read (``oc.env``).
        skip: checks that do not apply, each with the reason.
        only: the checks to run, where the others have a test of their own: ``["fit"]``.

    Raises:
        AssertionError: a promise is broken; the message says which one, and what to write instead.
        ValueError: an unknown name in ``skip`` or ``only``, or one without a reason.
    """
    case = PluginCase(name, over or {}, fit or {}, environment or {})
    run_checks(CHECKS, case, title=f"plugin `{name}`", caller="check_plugin", skip=skip, only=only)


def registered(plugin: str, kind: str) -> dict[str, Any]:
    """What an installed plugin adds of a kind, by name and without its prefix: that no test has forgotten one of them.

    Args:
        plugin: its entry point, ``detection``.
        kind: ``loss``, ``task``, ``data``, ...

    Returns:
        The classes and functions themselves: ``{"fgd": FGD}``.
    """
    return {
        component.name.partition(".")[2]: component.load()
        for component in _components(plugin)
        if component.kind == kind
    }


def _components(plugin: str) -> list[Component]:
    plugins = Plugins()
    plugins.describe()
    return [component for component in plugins.registry if component.plugin == plugin]


def _names(case: PluginCase) -> None:
    info = case.info
    if info.distribution != f"kdcore-{case.name}":
        raise PromiseError(
            f"its distribution is called `{info.distribution}`: call it `kdcore-{case.name}`, which is what people "
            "will try to install"
        )
    if info.package != f"kdcore_{case.name}":
        raise PromiseError(f"its module is `{info.package}`: call it `kdcore_{case.name}`, as the distribution")


def _loads(case: PluginCase) -> None:
    described = {item["name"]: item for item in Plugins().describe()}[case.info.name]
    if described["status"] != "ok":
        raise PromiseError(f"it is {described['status']}: {described['reason']}")
    if described["output"]:
        raise PromiseError(f"it prints while it loads, `{described['output'].strip()}`: say nothing at import")
    if not described["components"]:
        raise PromiseError('it adds nothing: call `add("loss", ...)` in its kdcore_register')


def _light(case: PluginCase) -> None:
    required = [line.partition(";")[0] for line in metadata.requires(case.info.distribution) or ()]
    modules = {_module(line) for line in required if "kdcore" not in line} | set(HEAVY)
    module = case.info.value.partition(":")[0]
    recipes = ["\n".join(map(str, case.words(name))) for name in case.recipes]
    said = _python("-c", LIGHT, ",".join(modules), module, *recipes, **case.environment)
    if said:
        which, _, loaded = said.partition(": ")
        when = "when it is loaded" if which == module else f"when `kdcore check {which}` looks at its recipe"
        raise PromiseError(
            f"it imports {loaded} {when}, and every `check` would wait for that: name components as text, "
            '`"package.module:attribute"`, and import inside of functions'
        )


def _module(requirement: str) -> str:
    """``torch-geometric>=2`` -> ``torch_geometric``."""
    return "".join(c if c.isalnum() or c in "_-" else " " for c in requirement).split()[0].replace("-", "_")


def _targets(case: PluginCase) -> None:
    for component in case.components:
        what = f"{component.kind} `{component.name}`"
        if not isinstance(component.target, str):
            raise PromiseError(
                f"the {what} is given as an object, so its file is imported whenever the plugin is: name it as text, "
                f'`"{component.target.__module__}:{component.target.__name__}"`'
            )
        try:
            loaded = component.load()
        except PluginError as error:
            raise PromiseError(f"{error.problems[0].message}: {error.problems[0].hint}") from error
        module = component.target.partition(":")[0]
        if getattr(loaded, "__module__", module) != module:
            raise PromiseError(
                f"the {what} is named in `{module}` and defined in `{loaded.__module__}`: name the file that defines "
                "it, which is the one that is read"
            )


def _documented(case: PluginCase) -> None:
    for component in case.components:
        what = f"the {component.kind} `{component.name}`"
        try:
            if not component.documentation().partition("\n")[0].strip():
                raise PromiseError(f"{what} has no docstring: say in one line what it is")
            for name, parameter in component.parameters().items():
                if not parameter.annotation:
                    raise PromiseError(f"{what} has a parameter `{name}` without annotation: write its type")
        except PluginError as error:
            raise PromiseError(f"{error.problems[0].message}: {error.problems[0].hint}") from error


def _losses(case: PluginCase) -> None:
    for component in case.components:
        if component.kind == "loss":
            for check in (check_parameters, check_literal, check_docstring, check_paper):
                try:
                    check(component)
                except PromiseError as broken:
                    raise PromiseError(f"the loss `{component.name}`: {broken}") from broken


def _recipes(case: PluginCase) -> None:
    mine = case.recipes
    if not mine:
        raise PromiseError(
            f"it ships no recipe: put `recipes/{case.name}.yaml` beside its module, the first one that a person tries"
        )
    unknown = sorted({*case.over, *case.fit} - set(mine))
    if unknown:
        raise PromiseError(
            f"it ships no recipe `{unknown[0]}`, which the check was told about; it ships {', '.join(mine)}"
        )
    with case.runner() as runner:
        for recipe in mine:
            runner.check(case.words(recipe))


def _fits(case: PluginCase) -> None:
    shipped = Plugins().shipped_recipes()
    for recipe, overrides in case.fit.items():
        stages: dict[str, Any] = {}
        for word in case.words(recipe):
            stages |= yaml.safe_load(shipped[str(word)].read_text(encoding="utf-8")).get("stages") or {}
        steps = [f"stages.{name}.trainer.max_steps=2" for name, stage in stages.items() if "trainer" in (stage or {})]
        with case.runner() as runner:
            runner.fit(case.words(recipe), *SHORT, *steps, *overrides)


def _gone(case: PluginCase) -> None:
    """What disabling shows, uninstalling would show too: that nobody but its own recipes misses it."""
    said = _python("-m", "kdcore", "check", "quickstart", KDCORE_PLUGINS="")
    if "the recipe is sound" not in said:
        raise PromiseError(f"with KDCORE_PLUGINS= the core's own recipe is not sound any more: {said}")


def _python(*words: str, **environment: str) -> str:
    """Standard output of a fresh Python, or what it died of."""
    command = [sys.executable, *words]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PromiseError(f"a fresh Python fails with it: {done.stderr.strip().rpartition(chr(10))[2]}")
    return done.stdout.strip()


CHECKS: tuple[Check[PluginCase], ...] = (
    Check("names", "one word names distribution, module and entry point", _names, "see docs/hooks.md"),
    Check("loads", "it loads, in silence, and adds components", _loads, "see `kdcore plugins`"),
    Check("light", "loading it, and checking its recipes, imports nothing heavy", _light, "import inside of functions"),
    Check("targets", "every component is where it says", _targets, "name the file that defines it"),
    Check("documented", "every component says what it is", _documented, "write a docstring"),
    Check(
        "losses", "every loss says what it reads, counts and refuses, and names its paper", _losses, "see `check_loss`"
    ),
    Check("recipes", "every recipe that it ships is sound", _recipes, "run `kdcore check` on it"),
    Check("fit", "the chosen recipes run, and leave nothing behind", _fits, "run `kdcore fit` on it"),
    Check("gone", "the core works without it", _gone, "do not change kdcore at import"),
)
