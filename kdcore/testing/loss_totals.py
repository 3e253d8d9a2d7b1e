"""What a loss returns: a sum with a graph and a count, on any device, also where nothing is selected."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdcore.losses.base import Total
from kdcore.signals import IGNORE
from kdcore.testing.answer import difference, of
from kdcore.testing.case import Case
from kdcore.testing.checks import Check, PromiseError

COUNT = "total_of(terms.sum(), n)"
RETURN = "return Total(terms.sum(), how many), from `kdcore import Total`, or several of them by name"


def _total(case: Case) -> None:
    found, _ = case.call(case.build()[0])
    if isinstance(found, Total) or not isinstance(found, dict):
        _check_total(found, "")
        return
    if not found:
        raise PromiseError("it returned no total at all: return the same ones for every batch, with a count of 0")
    for name, total in found.items():
        _check_total(total, name)


def _check_total(total: Any, name: str) -> None:
    if not isinstance(total, Total):
        raise PromiseError(f"it returned a {type(total).__name__}{f' as `{name}`' if name else ''}: {RETURN}")
    value: Any
    value, count = total
    if not isinstance(value, Tensor) or value.shape != () or value.dtype != torch.float32:
        raise PromiseError(
            f"the sum{of(name)} is {_kind(value)}, not a float32 scalar: add up all terms, `terms.float().sum()`"
        )
    if not value.requires_grad:
        raise PromiseError(
            f"the sum{of(name)} carries no graph to the student: compute it from the student's signals, outside of "
            "no_grad, and select by a mask, not by returning a new zero"
        )
    if not value.isfinite():
        raise PromiseError(
            f"the sum{of(name)} is {value.item()} on finite signals: look for a log, a root or a division at 0"
        )
    if not isinstance(count, Tensor) or count.shape != () or count.dtype != torch.int64:
        raise PromiseError(
            f"the count{of(name)} is {_kind(count)}, not an int64 scalar: write `mask.sum()`, or `{COUNT}`"
        )
    if count < 1:
        raise PromiseError(f"the count{of(name)} is {count.item()}: give the check a batch in which something counts")


def _gradient(case: Case) -> None:
    answer = case.answer()
    for path, gradient in {**answer.gradients, **answer.weights}.items():
        if not gradient.isfinite().all():
            raise PromiseError(
                f"the gradient at `{path}` is not finite: look for a root or a norm at 0, the log of 0, and "
                "torch.where around something that is infinite"
            )
    itself = [gradient for path, gradient in answer.weights.items() if path.startswith("student.")]
    if not any(gradient.any() for gradient in (*answer.gradients.values(), *itself)):
        raise PromiseError(
            "it has no gradient at the student, and would train nothing: is the student's signal used through argmax, "
            "round or a comparison only?"
        )


def _count(case: Case) -> None:
    for variant, where in ((case, ""), (case.with_batch(mask=None), " without a mask")):
        foretold = case.build()[0].count(variant.batch)
        if foretold is None:
            continue
        if not isinstance(foretold, Tensor) or foretold.shape != () or foretold.dtype != torch.int64:
            raise PromiseError(f"`count(batch)` gives {_kind(foretold)}: give an int64 scalar tensor, or None")
        for name, total in variant.answer().totals.items():
            if int(total.count) != int(foretold):
                raise PromiseError(
                    f"`count(batch)` foretells {int(foretold)} terms{where}, and `forward` counts {int(total.count)}"
                    f"{of(name)}: make them equal, or return None where the batch alone does not tell"
                )


def _empty(case: Case) -> None:
    variants = []
    if isinstance(case.batch.get("mask"), Tensor):
        variants.append((case.with_batch(mask=torch.zeros_like(case.batch["mask"])), "the mask keeps nothing"))
    labels = case.batch.get("labels")
    if isinstance(labels, Tensor) and not labels.is_floating_point():
        variants.append((case.with_batch(labels=torch.full_like(labels, IGNORE)), "nothing has a label"))
    usual = {name: int(total.count) for name, total in case.answer().totals.items()}
    for variant, where in variants:
        answer = variant.answer()
        for name, total in answer.totals.items():
            if int(total.count) == usual.get(name):
                continue  # it does not look at these
            if int(total.count) != 0:
                raise PromiseError(
                    f"where {where} the count{of(name)} is {int(total.count)}, not 0: count what is selected, without "
                    "a clamp; the core divides, and takes care of 0"
                )
            if total.sum.item() != 0:
                raise PromiseError(
                    f"where {where} the sum{of(name)} is {total.sum.item():.6g}, not 0: leave out the terms that are "
                    "not selected, `torch.where(mask, terms, 0.0).sum()`"
                )
        if not all(gradient.isfinite().all() for gradient in (*answer.gradients.values(), *answer.weights.values())):
            raise PromiseError(f"where {where} the gradient is not finite: do not divide by how many are selected")


def _device(case: Case) -> None:
    loss, models = case.build()
    for part in (loss, *models.values()):
        part.to("meta")
    found, _ = case.mapped(lambda _, x: x.to("meta")).call(loss)
    for name, total in (found if isinstance(found, dict) else {"": found}).items():
        for what, x in zip(("sum", "count"), total, strict=True):
            if not x.is_meta:
                raise PromiseError(
                    f"the {what}{of(name)} is made on the {x.device.type}, wherever the signals are: make tensors on "
                    f"their device, `{COUNT}`"
                )


def _compiled(case: Case) -> None:
    torch.compiler.reset()
    compiled = case.answer(partial(torch.compile, fullgraph=True, backend="aot_eager"))
    wrong = difference(compiled, case.answer())
    if wrong:
        raise PromiseError(f"compiled {wrong}: keep what Python counts or remembers out of `forward`")


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"


TOTALS: tuple[Check[Case], ...] = (
    Check("total", "it returns a Total, or several by name", _total, RETURN),
    Check("gradient", "a finite gradient reaches the student", _gradient, "use what has a gradient"),
    Check("count", "`count(batch)` foretells what `forward` counts", _count, "return None where a key is missing"),
    Check("empty", "nothing selected is 0 over 0, with a graph", _empty, "multiply by a mask, do not branch"),
    Check("device", "nothing in it waits for the device", _device,
          "no `.item()`, no `if` on a tensor, no `x[mask]`; multiply by the mask"),
)  # fmt: skip
COMPILED: tuple[Check[Case], ...] = (
    Check("compile", "it compiles as a whole (`fullgraph`) and gives the same", _compiled,
          "no `if` on a tensor, no printing, no call into libraries that cannot be traced"),
)  # fmt: skip
