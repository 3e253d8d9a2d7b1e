"""Samples that cannot be used: what is said of them, and what becomes of a split that goes without."""

from __future__ import annotations

from collections.abc import Sequence

from kdcore.errors import RunError

REMEDY = "Mend it, or set `bad: skip` to go without"
"""What to do about a sample that stops a run."""

SHOWN = 3
"""How many of the samples left out are named."""


class BadSampleError(Exception):
    """A sample that cannot be used; the message names the file and what is wrong with it."""


def left_out(split: str, wrong: list[str], total: int, what: str = "samples") -> list[str]:
    """A note on the samples that ``bad: skip`` went without, if any.

    Raises:
        RunError: none of them is left.
    """
    if not wrong:
        return []
    if len(wrong) == total:
        raise RunError(f"none of the {total} {what} of the split `{split}` can be used; the first: {wrong[0]}")
    return [f"{len(wrong)} of {total} {what} of the split `{split}` were left out: {listed(wrong)}"]


def listed(sentences: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    more = f" (and {len(sentences) - SHOWN} more)" if len(sentences) > SHOWN else ""
    return f"{'; '.join(sentences[:SHOWN])}{more}"


def reason(error: Exception) -> str:
    """The first line of a library's complaint."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
