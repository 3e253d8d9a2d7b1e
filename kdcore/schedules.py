"""Values that change over a stage: a schedule is a function of progress, which runs from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor


class Progress(float):
    """How much of the stage is done, in [0, 1].

    Attributes:
        losses: the running mean of each loss by name, on the device.
    """

    losses: Mapping[str, Tensor]

    def __new__(cls, value: float, losses: Mapping[str, Tensor] | None = None) -> Progress:
        self = super().__new__(cls, value)
        self.losses = losses or {}
        return self


Schedule: TypeAlias = "Callable[[Progress], float | Tensor]"
Scheduled: TypeAlias = "float | Schedule"
"""Annotation of a parameter for which a recipe may give a number or a schedule."""


def value_at(value: Scheduled, progress: Progress) -> float | Tensor:
    """The number itself, or what the schedule says at this point."""
    return value(progress) if callable(value) else value


def constant(*, value: float = 1.0) -> Schedule:
    """Always ``value``."""
    return lambda progress: value


def linear(*, start: float = 0.0, end: float = 1.0, until: float = 1.0) -> Schedule:
    """From ``start`` to ``end`` in a straight line, reached at progress ``until`` and held after it.

    Raises:
        ValueError: ``until`` is not in (0, 1].
    """
    _check_fraction("until", until, open_left=True)
    return lambda progress: start + (end - start) * min(1.0, progress / until)


def cosine(*, warmup: float = 0.0, floor: float = 0.0) -> Schedule:
    """Rises from 0 to 1 in a straight line over ``warmup``, then falls to ``floor`` along half a cosine.

    **Paper**: Loshchilov and Hutter, SGDR, 2016 (arXiv 1608.03983), eq. 5, without restarts.

    Raises:
        ValueError: ``warmup`` is not in [0, 1).
    """
    if not 0.0 <= warmup < 1.0:
        raise ValueError(f"warmup={warmup} is not in [0, 1): it is the share of the stage spent rising")

    def at(progress: Progress) -> float:
        if progress < warmup:
            return progress / warmup
        fallen = (progress - warmup) / (1.0 - warmup)
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, fallen)))

    return at


def step(*, at: list[float], factor: float = 0.1) -> Schedule:
    """Starts at 1 and is multiplied by ``factor`` each time progress passes one of ``at`` (fractions of the stage)."""
    for fraction in at:
        _check_fraction("at", fraction)
    return lambda progress: factor ** sum(progress >= fraction for fraction in at)


def _check_fraction(name: str, value: float, *, open_left: bool = False) -> None:
    if not (0.0 <= value <= 1.0) or (open_left and value == 0.0):
        raise ValueError(f"{name}={value} is not in {'(' if open_left else '['}0, 1]: it is a share of the stage")
