"""Verbs that plugins add: components of the kind ``command``, with options read from their parameters."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from kdcore.errors import PluginError, Problem, RecipeError
from kdcore.plugins import Plugins
from kdcore.recipe.parse import parse
from kdcore.recipe.types import Converter, MismatchError, describe
from kdcore.registry import Component, Parameter

_ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
"""One parameter under ``Args:`` in a docstring."""


def verbs(plugins: Plugins) -> dict[str, Component]:
    """What the installed plugins add to the command line: ``specdec.draft_bench`` is the verb ``draft-bench``.

    Raises:
        PluginError: two plugins add the same verb.
    """
    plugins.describe()  # loads all of them
    found: dict[str, Component] = {}
    for component in plugins.registry:
        if component.kind != "command":
            continue
        verb = component.name.rpartition(".")[2].replace("_", "-")
        if verb in found:
            both = f"`{found[verb].plugin}` and `{component.plugin}`"
            hint = "allow one of them: KDCORE_PLUGINS=NAME,..."
            raise PluginError([Problem(f"the plugins {both} both add the verb `{verb}`", hint)])
        found[verb] = component
    return found


def summary(component: Component) -> str:
    """The first line of its docstring."""
    return component.documentation().partition("\n")[0].rstrip(".").replace("``", "`")


def add_options(parser: argparse.ArgumentParser, component: Component) -> None:
    """An option for each keyword-only parameter; what the docstring says under ``Args:`` is its help."""
    texts = {name: " ".join(text.split()) for name, text in _ENTRY.findall(component.documentation())}
    for parameter in component.parameters().values():
        option = f"--{parameter.name.replace('_', '-')}"
        wanted = describe(parameter.annotation)
        default = "must be given" if parameter.required else f"default: {parameter.default}"
        text = f"{texts.get(parameter.name, wanted)} ({default})".replace("``", "`").replace("%", "%%")
        shared: dict[str, Any] = {"dest": _dest(parameter), "default": argparse.SUPPRESS, "help": text}
        if parameter.annotation == "bool":
            parser.add_argument(option, action=argparse.BooleanOptionalAction, **shared)
        else:
            parser.add_argument(option, metavar="VALUE", required=parameter.required, **shared)


def given(options: argparse.Namespace, component: Component) -> dict[str, Any]:
    """The values of the options that were given, each as its parameter's annotation wants it.

    They are written as in a recipe: ``--layers "[0, 5]"``.

    Raises:
        RecipeError: one or more of them are something else.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    said: Mapping[str, Any] = vars(options)
    for name, parameter in component.parameters().items():
        value, option = said.get(_dest(parameter)), f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            values[name] = value
        elif value is not None:
            node = parse(value, option, problems, path=name, override=True)
            try:
                if node is not None:
                    values[name] = Converter().convert(node, parameter.annotation)
            except MismatchError as error:
                problems.append(Problem(f"{option} {value}: must be {error.wanted}"))
    if problems:
        raise RecipeError(problems)
    return values


def _dest(parameter: Parameter) -> str:
    return f"option_{parameter.name}"  # beside `words`, `runs`, ... of the parser itself
