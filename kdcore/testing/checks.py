"""How checks are run: one after another, each with a name, each leaving one sentence when it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kdcore.errors import did_you_mean

C = TypeVar("C")


class PromiseError(Exception):
    """What a check found: what is wrong, and what to write instead."""


@dataclass(frozen=True)
class Check(Generic[C]):
    """One promise.

    Attributes:
        name: what ``skip`` calls it.
        promise: what is promised, in words that a page can print.
        run: raises :class:`PromiseError` where it does not hold.
        hint: what to write instead where the thing under test raises.
    """

    name: str
    promise: str
    run: Callable[[C], None]
    hint: str


def run_checks(
    checks: Sequence[Check[C]],
    subject: C,
    *,
    title: str,
    caller: str,
    skip: Mapping[str, str] | None,
    only: Sequence[str] = (),
) -> None:
    """Run all checks that are not skipped, and stop at the first that fails.

    Args:
        checks: in their order.
        subject: what each of them is given.
        title: the thing under test, for messages.
        caller: the function that offers ``skip``.
        skip: names of checks that do not apply, each with the reason.
        only: names of the checks to run, where others have a test of their own.

    Raises:
        AssertionError: a promise is broken; the message says which one, and what to write instead.
        ValueError: ``skip`` or ``only`` names no check, or ``skip`` gives no reason.
    """
    skipped = skip or {}
    known = [check.name for check in checks]
    for name, reason in skipped.items():
        if name not in known:
            raise ValueError(f"skip={{{name!r}: ...}}: there is no such check; {did_you_mean(name, known)}")
        if not reason.strip():
            raise ValueError(f"skip={{{name!r}: {reason!r}}}: say why the check does not apply")
    for name in only:
        if name not in known:
            raise ValueError(f"only={list(only)}: there is no check `{name}`; {did_you_mean(name, known)}")
    for check in checks:
        if check.name in skipped or (only and check.name not in only):
            continue
        try:
            check.run(subject)
        except PromiseError as broken:
            raise AssertionError(_sentence(title, check.name, caller, str(broken))) from broken.__cause__
        except Exception as error:  # what is under test may raise anything
            raised = f"it raises {type(error).__name__}{_first_line(error)}"
            raised += f"; promised is that {check.promise}: {check.hint}"
            raise AssertionError(_sentence(title, check.name, caller, raised)) from error


def _sentence(title: str, name: str, caller: str, what: str) -> str:
    return f"{title} [{name}]: {what}\n(If that is meant: {caller}(..., skip={{{name!r}: 'the reason'}}))"


def _first_line(error: Exception) -> str:
    text = str(error.args[0]) if len(error.args) == 1 else str(error)
    line = text.strip().partition("\n")[0].rstrip(".")
    return f": {line}" if line else ""
