"""Writes the generated parts of the pages beside this file:   python docs/generate.py"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

DOCS = Path(__file__).parent

sys.path.insert(0, str(DOCS.parent))

from kdcore import cli  # noqa: E402
from kdcore.hookspecs import KINDS  # noqa: E402
from kdcore.plugins import Plugins  # noqa: E402
from kdcore.recipe import check, data, losses, models, schema, stages, start, trainer  # noqa: E402
from kdcore.registry import Component, Parameter  # noqa: E402


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
    """A table for each kind of which the core has components."""
    registry = Plugins().registry
    parts = []
    for kind in KINDS:
        rows = [_row(item) for item in registry if item.kind == kind and item.plugin == "kdcore"]
        head = [f"### Kind `{kind}`", "", "| name | what | parameters | papers |", "| --- | --- | --- | --- |"]
        parts += ["\n".join([*head, *rows])] * bool(rows)
    return "\n\n".join(parts) + "\n"


def _row(component: Component) -> str:
    documentation = component.documentation()
    what = documentation.partition("\n")[0].replace("``", "`").replace("|", "\\|")
    parameters = "<br>".join(f"`{_signature(item)}`" for item in component.parameters().values())
    papers = ", ".join(
        f"[{number}](https://arxiv.org/abs/{number})" for number in re.findall(r"arXiv (\d{4}\.\d+)", documentation)
    )
    return f"| `{component.name}` | {what} | {parameters} | {papers} |"


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


# ---- the keys of a recipe

KEYS: dict[str, tuple[type, Iterable[str]]] = {
    "recipe": (schema.Recipe, check.KEYS),
    "data": (schema.DataSlot, data.CORE),
    "model": (schema.ModelSlot, ("use", *models.CORE)),
    "stage": (schema.Stage, stages.KEYS),
    "init": (schema.Init, start.INIT_KEYS),
    "loss": (schema.LossSlot, ("use", *losses.CORE)),
    "tap": (schema.Tap, losses.TAP_KEYS),
    "optimizer": (schema.Optimizer, ("use", *trainer.CORE)),
    "cache": (schema.Cache, start.CACHE_KEYS),
}
"""Each table of docs/recipe.md: the class of the schema that its keys become, and the keys that the checker knows."""


class Said(NamedTuple):
    """What a docstring says of a key; ``value`` and ``default`` are empty where the field tells them."""

    meaning: str
    value: str = ""
    default: str = ""


def keys_table(section: str) -> str:
    """A row for each key of a part of a recipe.

    Raises:
        ValueError: the schema does not say what one of them means.
    """
    made, keys = KEYS[section]
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    said, fields = _said(made), {field.name: field for field in dataclasses.fields(made)}
    hints = get_type_hints(made)
    for key in keys:
        if key not in said:
            raise ValueError(f"the docstring of schema.{made.__name__} does not say what the key `{key}` means")
        meaning, value, default = said[key]
        value = value or _value(hints[key])
        default = default or _default(fields[key])
        rows.append(" | ".join([f"| `{key}`", value, default, f"{meaning.removesuffix('.')} |"]))
    return "\n".join(rows).replace("``", "`") + "\n"


def _said(made: type) -> dict[str, Said]:
    """Below ``Attributes:`` and ``Keys:`` of a class and those it derives from."""
    found: dict[str, Said] = {}
    for one in reversed(made.__mro__):
        for entry in re.split(r"\n {4}(?=\w)", inspect.cleandoc(one.__doc__ or ""))[1:]:
            line = " ".join(entry.partition("\n\n")[0].split())
            match = re.fullmatch(r"(\w+)(?: \((.*?)(?:; (.*?))?\))?: (.+)", line)
            if match is not None:  # the last one counts: what stands below `Keys:`
                name, value, default, meaning = match.groups("")
                found[name] = Said(meaning, value, default)
    return found


_PLAIN = {str: "text", int: "a whole number", float: "a number", bool: "`true` or `false`"}


def _value(hint: Any) -> str:
    """A type in words: ``int | None`` is *a whole number*, as leaving it out is the default."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _or([f"`{choice}`" for choice in inner])
    if origin is tuple:
        return f"a list of {_value(inner[0]).removeprefix('a ')}s".replace("texts", "text")
    if origin is dict:
        return "slots by name" if inner[1] is schema.Slot else "a mapping"
    if inner:
        return _or([_value(one) for one in inner if one is not NoneType])
    return _PLAIN.get(hint, "a slot")


def _or(words: list[str]) -> str:
    return " or ".join([*filter(None, [", ".join(words[:-1])]), words[-1]])


def _default(field: dataclasses.Field[Any]) -> str:
    made = field.default_factory() if callable(field.default_factory) else field.default
    if made is dataclasses.MISSING:
        return "required"
    if made is None:
        return "none"
    if isinstance(made, tuple):
        return f"`[{', '.join(made)}]`"
    return f"`{str(made).lower() if isinstance(made, bool) else f'{made:g}' if isinstance(made, float) else made}`"


# ---- examples

LANGUAGES = {".py": "python", ".yaml": "yaml"}


def example(file: Path) -> str:
    """A file of docs/examples as a block of code."""
    return f"```{LANGUAGES[file.suffix]}\n{file.read_text(encoding='utf-8')}```\n"


PARTS = (
    Part("kinds.md", "core components", core_components),
    Part("recipe.md", "command line", command_line),
    *(Part("recipe.md", f"keys: {section}", partial(keys_table, section)) for section in KEYS),
    *(
        Part("writing-a-loss.md", f"examples/{file.name}", partial(example, file))
        for file in sorted((DOCS / "examples").iterdir())
        if file.suffix in LANGUAGES
    ),
)


if __name__ == "__main__":
    for part in PARTS:
        path = DOCS / part.page
        path.write_text(part.renew(path.read_text(encoding="utf-8")), encoding="utf-8")
