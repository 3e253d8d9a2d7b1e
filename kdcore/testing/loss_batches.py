"""What must not change a loss's value: the order of a batch, how it is split, what is masked, padding."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from kdcore.signals import IGNORE
from kdcore.testing.answer import Answer, close, difference, of
from kdcore.testing.case import Case
from kdcore.testing.checks import Check, PromiseError

RUBBISH = (1e30, math.inf, -math.inf, math.nan)
EXTRA = 3
"""Positions that padding adds."""


def _order(case: Case) -> None:
    n = case.samples
    order = torch.arange(n).roll(1)
    known = case.answer()
    moved = {path: g[order] if len(g) == n else g for path, g in known.gradients.items()}
    wrong = difference(case.rows(order).answer(), Answer(known.totals, moved, known.weights))
    if wrong:
        raise PromiseError(
            f"with the samples in another order {wrong}: treat every sample alike, wherever in the batch it stands"
        )


def _additive(case: Case) -> None:
    if case.build()[0].relational:
        return
    whole, n = case.answer(), case.samples
    parts = [case.rows(torch.arange(n)[at]).answer() for at in (slice(0, 1), slice(1, n))]
    for name, total in whole.totals.items():
        value, count = float(total.sum.detach()), int(total.count)
        sums = [float(part.totals[name].sum.detach()) for part in parts]
        counts = [int(part.totals[name].count) for part in parts]
        if close(sum(sums), value, count) and sum(counts) == count:
            continue
        if _is_mean(value, count, sums, counts):
            raise PromiseError(
                f"it returns the mean{of(name)} instead of the sum, and batches that are not equally full would be "
                "averaged wrongly: return Total(terms.sum(), how many)"
            )
        raise PromiseError(
            f"the total{of(name)} of the batch is {value:.6g} over {count}, and its parts have {sums[0]:.6g} over "
            f"{counts[0]} and {sums[1]:.6g} over {counts[1]}, which do not add up to it. A loss that compares samples "
            "with each other says `relational: ClassVar[bool] = True` and returns Total(value * n, n)"
        )


def _is_mean(value: float, count: int, sums: list[float], counts: list[int]) -> bool:
    """Sums that are means give the whole when weighed by their counts; a count of 1 everywhere is one of a mean too."""
    if counts == [1, 1] and count == 1:
        return True
    weighed = sum(s * c for s, c in zip(sums, counts, strict=True)) / max(1, sum(counts))
    return sum(counts) == count and close(weighed, value, 1)


def _mask(case: Case) -> None:
    mask = case.batch.get("mask")
    if not isinstance(mask, Tensor) or mask.all():
        return

    def spoilt(path: str, x: Tensor, *, rubbish: float) -> Tensor:
        if path.startswith("batch"):
            return x.masked_fill(~mask, 0) if path == "batch.labels" and x.shape == mask.shape else x
        axis = class_axis_of(x, mask, case.class_axis)
        if axis is None or not x.is_floating_point():
            return x
        return x.masked_fill(~(mask if x.ndim == mask.ndim else mask.unsqueeze(axis)), rubbish)

    clean = case.answer()
    for rubbish in RUBBISH:
        wrong = difference(case.mapped(partial(spoilt, rubbish=rubbish)).answer(), clean)
        if wrong:
            raise PromiseError(
                f"with {rubbish:g} at positions that the mask leaves out {wrong}: hide them first of all, "
                "`functional.hide(signal, mask, self.class_axis)`; left out of the sum alone, they reach the gradient"
            )


def _padding(case: Case) -> None:
    mask = case.batch.get("mask")
    if not isinstance(mask, Tensor) or mask.ndim < 2 or _has_other_positions(case, mask):
        return

    def padded(path: str, x: Tensor) -> Tensor:
        if path.startswith("batch"):
            fill = IGNORE if path == "batch.labels" and not x.is_floating_point() else 0
            return _longer(x, 1, fill) if x.shape[: mask.ndim] == mask.shape else x
        axis = class_axis_of(x, mask, case.class_axis)
        return x if axis is None else _longer(x, 2 if axis == 1 else 1, 0)

    clean, longer = case.answer(), case.mapped(padded).answer()
    cut = {path: g[tuple(slice(size) for size in clean.gradients[path].shape)] for path, g in longer.gradients.items()}
    wrong = difference(Answer(longer.totals, cut, longer.weights), clean)
    if wrong:
        raise PromiseError(
            f"with {EXTRA} more positions that the mask leaves out {wrong}: divide by how many are selected, never by "
            "a shape"
        )


def _has_other_positions(case: Case, mask: Tensor) -> bool:
    """Whether a signal has a row for each sample, but other positions than the mask: a tap of another size."""
    found = False

    def look(path: str, x: Tensor) -> Tensor:
        nonlocal found
        if not path.startswith("batch") and x.ndim and len(x) == len(mask):
            found = found or class_axis_of(x, mask, case.class_axis) is None
        return x

    case.mapped(look)
    return found


def class_axis_of(x: Tensor, mask: Tensor, class_axis: int) -> int | None:
    """Where the classes are in a signal that has one value, or one vector, for each position of the mask.

    Returns:
        The axis; ``x.ndim`` where there is no such axis; ``None`` for a signal of other positions.
    """
    if x.shape == mask.shape:
        return x.ndim
    if x.ndim != mask.ndim + 1:
        return None
    for axis in (class_axis % x.ndim, x.ndim - 1, 1):
        if x.shape[:axis] + x.shape[axis + 1 :] == mask.shape:
            return axis
    return None


def _longer(x: Tensor, axis: int, fill: int) -> Tensor:
    return functional.pad(x, [0, 0] * (x.ndim - axis - 1) + [0, EXTRA], value=fill)


BATCHES: tuple[Check[Case], ...] = (
    Check("order", "the order of the samples does not matter", _order, "take samples in any order"),
    Check("additive", "sum and count add up over the parts of a batch", _additive, "take a batch of one sample"),
    Check("mask", "what stands at masked positions does not matter", _mask,
          "hide it, `functional.hide(signal, mask, self.class_axis)`"),
    Check("padding", "more masked positions change nothing", _padding, "take any number of positions"),
)  # fmt: skip
