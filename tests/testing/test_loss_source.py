"""What the source of a loss must say, and what is said where it does not."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from kdcore.losses.base import Loss
from kdcore.testing import check_loss, samples

from . import refusal as r
from .sound import Sound

NEEDS = {"student.logits", "teacher.logits"}


class Positional(Sound):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale=scale)


class Bare(Sound):
    def __init__(self, *, scale=1.0) -> None:  # type: ignore[no-untyped-def]
        super().__init__(scale=scale)


class Anything(Sound):
    def __init__(self, **options: Any) -> None:
        super().__init__()


class Computed(Sound):
    needs: ClassVar[frozenset[str]] = frozenset(NEEDS)


class Late(Sound):
    needs: ClassVar[frozenset[str]] = frozenset({"student.logits"})


Late.needs = frozenset(NEEDS)


class Dotless(Sound):
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})


class Silent(Sound):
    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__(scale=scale)


class Described(Sound):
    """``|s - t|``.

    **Shape**: (N, C).

    Raises:
        ValueError: never.
    """


class Undescribed(Sound):
    """``|s - t|``.

    **Shape**: (N, C).

    **Reduction**: positions.

    Args:
        power: of something else.

    Raises:
        ValueError: never.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__(scale=scale)


class Paperless(Sound):
    """``|s - t|``.

    **Shape**: (N, C).

    **Reduction**: positions.

    Args:
        scale: a factor.

    Raises:
        ValueError: never.
    """


def refused(make: type[Loss], check: str, **skip: str) -> str:
    """What is said first; all the loss's other promises may be broken as well, as nothing of it is run."""
    with pytest.raises(AssertionError) as caught:
        check_loss(make, **samples.vectors(), skip=skip)
    return r.inside(str(caught.value), f"{make.__name__} [{check}]: ", "check_loss", check)


def test_a_sound_loss_passes():
    check_loss(Sound, **samples.vectors(), skip={"compile": "takes long"})


def test_a_positional_parameter():
    assert refused(Positional, "parameters") == (
        "the parameter `scale` is positional, and a recipe sets keyword-only ones: put a `*` before it, "
        "`def __init__(self, *, scale: ...)`"
    )


def test_a_parameter_without_annotation():
    assert refused(Bare, "parameters") == (
        "the parameter `scale` has no annotation: write its type, `scale: float = 1.0`"
    )


def test_any_parameters():
    assert refused(Anything, "parameters") == (
        "`__init__` takes `**options: 'Any'`, and what a recipe sets there cannot be checked: write out the "
        "parameters; what goes to a third party belongs in one `options: dict`"
    )


def test_needs_that_are_computed():
    assert refused(Computed, "literal") == (
        "`needs = frozenset(NEEDS)` is not a literal: write out `needs: ClassVar[frozenset[str]] = "
        'frozenset({"student.logits", ...})`, which `check` reads without importing the file'
    )


def test_needs_that_are_set_afterwards():
    assert refused(Late, "literal") == (
        "`needs` is {student.logits, teacher.logits}, and `check`, which reads the file, finds {student.logits}: "
        "write it as a literal in the body of the class, and nowhere else"
    )


def test_a_need_without_a_role():
    assert refused(Dotless, "literal") == "`needs` holds `logits`: write role and signal, `student.logits`"


def test_no_docstring():
    assert refused(Silent, "docstring") == "it has no docstring: begin with the formula in one line"
    assert refused(Silent, "paper", docstring="not now") == "it has no docstring: begin with the formula in one line"


def test_a_docstring_without_one_of_its_parts():
    assert refused(Described, "docstring") == (
        "its docstring has no `**Reduction**`: say what `count` counts: `**Reduction**: count is the number of ...`"
    )


def test_a_parameter_that_is_not_described():
    assert refused(Undescribed, "docstring") == (
        "its docstring does not describe the parameter `scale`: write below `Args:` what it means, its unit, and where "
        "its default comes from, `scale: ...`"
    )


def test_no_paper():
    assert refused(Paperless, "paper") == (
        "its docstring names no paper: write `**Paper**: authors, title, year (arXiv id)` and every deviation from it; "
        "a loss that comes from none says `**Paper**: none` and why"
    )


def test_a_class_that_is_in_no_file():
    space: dict[str, Any] = {"Sound": Sound, "__name__": "nowhere"}
    exec("class Spoken(Sound): pass", space)
    said = refused(space["Spoken"], "literal")
    assert said.startswith("it raises ")
    assert said.endswith(
        "promised is that `needs` is a literal: define the class in a file, which is what `check` reads"
    )
