"""What a loss said in one situation, and how two answers differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdcore.losses.base import Total


@dataclass(frozen=True)
class Answer:
    """What a loss said.

    Attributes:
        totals: by name; the only one of a loss is called ``""``.
        gradients: of the sum of all sums at every signal of the student, by ``role.signal``; zeros where none arrived.
        weights: likewise at the loss's own parts, by ``loss.name``, and at the student itself where the loss runs it.
    """

    totals: dict[str, Total]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The parts' means, added up: what the core makes of them."""
        return sum(float(total.sum.detach() / total.count.clamp(min=1)) for total in self.totals.values())


def difference(found: Answer, known: Answer) -> str:
    """What differs first, in words; empty where nothing does."""
    if found.totals.keys() != known.totals.keys():
        return f"its totals are {names_of(found.totals)} instead of {names_of(known.totals)}"
    for name, total in found.totals.items():
        value, expected = float(total.sum.detach()), float(known.totals[name].sum.detach())
        count, wanted = int(total.count), int(known.totals[name].count)
        if count != wanted:
            return f"its count{of(name)} is {count} instead of {wanted}"
        if not close(value, expected, wanted):
            return f"its sum{of(name)} is {value:.6g} instead of {expected:.6g}"
    expected_at = {**known.gradients, **known.weights}
    for path, gradient in {**found.gradients, **found.weights}.items():
        if wrong := apart(gradient, expected_at[path]):
            return f"its gradient at `{path}` {wrong}"
    return ""


def apart(gradient: Tensor, known: Tensor) -> str:
    """How a gradient differs from a known one, in words; empty where it does not."""
    if not gradient.isfinite().all():
        return "is not finite"
    # one in half precision is rounded once
    tolerance = 1e-3 if gradient.dtype in (torch.float32, torch.float64) else 1e-2
    size = known.float().norm().item()
    distance = (gradient.float() - known.float()).norm().item()
    return "" if distance <= tolerance * size + 1e-6 else f"is off by {distance:.3g}, where {size:.3g} is its length"


def close(value: float, expected: float, count: int) -> bool:
    """Equal but for rounding, of a sum of ``count`` terms: half precision alone would be off by 4e-3."""
    return math.isclose(value, expected, rel_tol=1e-4, abs_tol=1e-6 * max(1, count))


def names_of(values: Mapping[str, Any]) -> str:
    """The names of totals, in words."""
    return ", ".join(f"`{name}`" if name else "one without a name" for name in values)


def of(name: str) -> str:
    """Which total is meant, in words; nothing for the only one."""
    return f" of `{name}`" if name else ""
