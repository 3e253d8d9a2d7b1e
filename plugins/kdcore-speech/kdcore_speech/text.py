"""Normalisers of text, by name, so that an error rate says under which one it was counted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

Normaliser = Literal["none", "lower", "upper", "plain"]
"""``none`` only joins white space; ``lower`` and ``upper`` change case; ``plain`` also takes out punctuation."""

_NO_WORD = re.compile(r"[^\w\s']|_")


def normalised(text: str, how: Normaliser) -> str:
    """The text after a normaliser; white space at its ends is gone, elsewhere it is one space.

    Raises:
        ValueError: there is no such normaliser.
    """
    if how not in _STEPS:
        raise ValueError(f"there is no normaliser `{how}`: known are {', '.join(get_args(Normaliser))}")
    return " ".join(_STEPS[how](text).split())


def _plain(text: str) -> str:
    """Unicode's compatible form, lower case, letters, digits and apostrophes."""
    return _NO_WORD.sub(
        " ", unicodedata.normalize("NFKC", text).lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    )


_STEPS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "lower": str.lower,
    "upper": str.upper,
    "plain": _plain,
}
