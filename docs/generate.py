"""Writes the generated parts of the pages beside this file:   python docs/generate.py"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent

sys.path.insert(0, str(DOCS.parent))

from kdcore import cli  # noqa: E402
from kdcore.hookspecs import KINDS  # noqa: E402
from kdcore.plugins import Plugins  # noqa: E402
from kdcore.registry import Component, Parameter, Registry  # noqa: E402


class Part(NamedTuple):
    """What stands between two marks of a page, and what makes it."""

    page: str
    title: str
    make: Callable[[], str]

    @property
    def begin(self) -> str:
        return f"<!-- {self.title}: begin -->\n"

    @property
    def end(self) -> str:
        return f"<!-- {self.title}: end -->\n"

    def written(self, page: str) -> str:
        """What stands between the marks."""
        return page.partition(self.begin)[2].partition(self.end)[0]

    def renew(self, page: str) -> str:
        """The page with this part as it should be.

        Raises:
            ValueError: the page lacks the marks.
        """
        head, begin, rest = page.partition(self.begin)
        _, end, tail = rest.partition(self.end)
        if not (begin and end):
            raise ValueError(f"docs/{self.page} has no lines {self.begin.strip()} and {self.end.strip()}")
        return head + begin + self.make() + end + tail


# ---- components


def core_components() -> str:
    """The table of components, a row for each in the order of the kinds."""
    rows = ["| kind | name | what | parameters |", "| --- | --- | --- | --- |"]
    registry = Plugins().registry
    rows += [_row(component) for kind in KINDS for component in _of(registry, kind)]
    return "\n".join(rows) + "\n"


def _of(registry: Registry, kind: str) -> list[Component]:
    return [item for item in registry if item.kind == kind and item.plugin == "kdcore"]


def _row(component: Component) -> str:
    what = component.documentation().partition("\n")[0].replace("``", "`").replace("|", "\\|")
    parameters = "<br>".join(f"`{_signature(item)}`" for item in component.parameters().values())
    return f"| {component.kind} | `{component.name}` | {what} | {parameters} |"


def _signature(parameter: Parameter) -> str:
    default = "" if parameter.required else f" = {parameter.default}"
    return f"{parameter.name}: {parameter.annotation}{default}".replace("|", "\\|")


# ---- the command line


def command_line() -> str:
    """Two tables: the verbs, and the options with the verbs that take them."""
    verbs = dict(_verbs())
    rows = ["| verb | what it does |", "| --- | --- |"]
    rows += [f"| `{' '.join([name, *_words(verb)])}` | {verb.description} |" for name, verb in verbs.items()]
    rows += ["", "| option | of | what it does |", "| --- | --- | --- |"]
    takers: dict[tuple[str, str], list[str]] = {}
    for name, verb in verbs.items():
        for action in verb._actions:
            if action.option_strings and action.dest != "help":
                takers.setdefault((_option(action), action.help or ""), []).append(name)
    for (option, text), names in takers.items():
        of = "every verb" if len(names) == len(verbs) else ", ".join(f"`{name}`" for name in names)
        rows.append(f"| `{option}` | {of} | {text} |")
    return "\n".join(rows) + "\n"


def _verbs() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in cli._parser("fit")._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _words(verb: argparse.ArgumentParser) -> list[str]:
    words = []
    for action in verb._actions:
        if not action.option_strings:
            name = str(action.metavar or action.dest.upper())
            words.append(f"{name} ..." if action.nargs == "+" else name)
    return words


def _option(action: argparse.Action) -> str:
    if action.nargs == 0:
        return action.option_strings[0]
    return f"{action.option_strings[0]} {action.metavar or action.dest.upper()}"


PARTS = (
    Part("kinds.md", "core components", core_components),
    Part("recipe.md", "command line", command_line),
)


if __name__ == "__main__":
    for part in PARTS:
        path = DOCS / part.page
        path.write_text(part.renew(path.read_text(encoding="utf-8")), encoding="utf-8")
