"""What a loss's source must say: the registry reads it without importing it, and people read it too."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from kdcore.errors import PluginError
from kdcore.losses.base import Loss
from kdcore.registry import Component
from kdcore.testing.case import Case
from kdcore.testing.checks import Check, PromiseError

PARTS = {
    "**Shape**": "say the shape of every signal that it reads: `**Shape**: student and teacher (N, C), ...`",
    "**Reduction**": "say what `count` counts: `**Reduction**: count is the number of ...`",
    "Raises:": "say what it refuses, one line each, `ValueError: ...`: two shapes that do not fit, a senseless number",
}
"""Sections that every loss's docstring has, and what to write where one is missing."""


def check_parameters(component: Component) -> None:
    """A recipe can set every parameter.

    Raises:
        PromiseError: one is positional, or has no annotation.
    """
    kind: Any = component.load()
    if kind.__init__ is nn.Module.__init__:
        return
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise PromiseError(
                f"`__init__` takes `{parameter}`, and what a recipe sets there cannot be checked: write out the "
                "parameters; what goes to a third party belongs in one `options: dict`"
            )
        if parameter.kind is not parameter.KEYWORD_ONLY:
            raise PromiseError(
                f"the parameter `{name}` is positional, and a recipe sets keyword-only ones: put a `*` before it, "
                f"`def __init__(self, *, {name}: ...)`"
            )
        if parameter.annotation is parameter.empty:
            raise PromiseError(f"the parameter `{name}` has no annotation: write its type, `{name}: float = 1.0`")


def check_literal(component: Component) -> None:
    """``needs`` is read from the file as it is at run time.

    Raises:
        PromiseError: it is computed, or names no signal of a role.
    """
    kind: Any = component.load()
    try:
        read = component.literal("needs", Loss.needs)
    except PluginError as error:
        what = error.problems[0].message.rpartition(": ")[2]
        raise PromiseError(
            f'{what}: write out `needs: ClassVar[frozenset[str]] = frozenset({{"student.logits", ...}})`, which '
            "`check` reads without importing the file"
        ) from error
    if read != kind.needs:
        raise PromiseError(
            f"`needs` is {_shown(kind.needs)}, and `check`, which reads the file, finds {_shown(read)}: write it as a "
            "literal in the body of the class, and nowhere else"
        )
    for need in sorted(read):
        role, _, signal = need.partition(".")
        if not (role and signal):
            raise PromiseError(f"`needs` holds `{need}`: write role and signal, `student.{need.strip('.')}`")


def check_docstring(component: Component) -> None:
    """The docstring has all its parts.

    Raises:
        PromiseError: one is missing.
    """
    text = _documentation(component)
    for part, advice in PARTS.items():
        if part not in text:
            raise PromiseError(f"its docstring has no `{part}`: {advice}")
    for name in component.parameters():
        if not re.search(rf"^\s+{name}: \S", text, re.MULTILINE):
            raise PromiseError(
                f"its docstring does not describe the parameter `{name}`: write below `Args:` what it means, its unit, "
                f"and where its default comes from, `{name}: ...`"
            )


def check_paper(component: Component) -> None:
    """The docstring names the paper.

    Raises:
        PromiseError: it does not.
    """
    if "**Paper" not in _documentation(component):
        raise PromiseError(
            "its docstring names no paper: write `**Paper**: authors, title, year (arXiv id)` and every deviation from "
            "it; a loss that comes from none says `**Paper**: none` and why"
        )


def _documentation(component: Component) -> str:
    text = component.documentation()
    if not text.strip():
        raise PromiseError("it has no docstring: begin with the formula in one line")
    return text


def _shown(needs: frozenset[str]) -> str:
    return "{" + ", ".join(sorted(needs)) + "}"


def _of(check: Callable[[Component], None]) -> Callable[[Case], None]:
    """The check of a component, for the class of a case's loss."""

    def run(case: Case) -> None:
        kind = type(case.make())
        check(Component("loss", kind.__name__, kind, "local"))

    return run


IN_A_FILE = "define the class in a file, which is what `check` reads"
SOURCE: tuple[Check[Case], ...] = (
    Check("parameters", "parameters are keyword-only and annotated", _of(check_parameters), IN_A_FILE),
    Check("literal", "`needs` is a literal", _of(check_literal), IN_A_FILE),
    Check(
        "docstring", "its docstring has Shape, Reduction, Raises and every parameter", _of(check_docstring), IN_A_FILE
    ),
    Check("paper", "its docstring names the paper", _of(check_paper), IN_A_FILE),
)
