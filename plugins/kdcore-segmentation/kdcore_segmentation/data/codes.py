"""What the values in a mask mean. Plain lists, so that a recipe can be checked without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

VOID = 255
"""How a pixel that has no class is kept in memory; it is given out as -100."""

UNKNOWN = -1
"""A value that a mask must not hold."""

MAX_CLASSES = 255


def plain_codes(classes: int, ignore: Sequence[int]) -> list[int]:
    """Masks that hold the class numbers 0 to ``classes - 1`` themselves, and ``ignore`` where there is no class.

    Returns:
        For each value 0..255 of a mask its class, ``VOID`` or ``UNKNOWN``.

    Raises:
        ValueError: fewer than two or more than 255 classes, or an ignored value that is a class or no byte.
    """
    if not 2 <= classes <= MAX_CLASSES:
        raise ValueError(f"classes={classes}: give from 2 to {MAX_CLASSES}, because masks are kept as bytes")
    for value in ignore:
        if 0 <= value < classes:
            raise ValueError(
                f"ignore={list(ignore)}: {value} is one of the classes 0 to {classes - 1}. Give a value that stands "
                "for no class (masks must number their classes from 0 without a gap)"
            )
        if not 0 <= value <= 255:
            raise ValueError(f"ignore={list(ignore)}: {value} is not in 0 to 255, the values that a mask can hold")
    return mapped_codes({**{value: value for value in range(classes)}, **dict.fromkeys(ignore, VOID)})


def mapped_codes(meaning: Mapping[int, int]) -> list[int]:
    """For each value 0..255 of a mask what ``meaning`` says, and ``UNKNOWN`` where it says nothing."""
    return [meaning.get(value, UNKNOWN) for value in range(256)]
