"""Whether the numbers are right: computed in float32, least where nothing is left to learn, equal to a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kdcore.testing.answer import apart, difference, names_of, of
from kdcore.testing.case import Case, read_by
from kdcore.testing.checks import Check, PromiseError

Reference: TypeAlias = "float | Mapping[str, float] | Callable[..., Any]"
"""The mean that is expected, by name where there are several, or a function of what ``forward`` is called with."""

STEPS = (0.01, -0.01, 0.1, -0.1, 1.0, -1.0)
"""How far, and to which side, a student is moved from its teacher: where there is a slope one side goes down."""

UPCAST = "upcast what it reads, `x.float()`, before anything else"


def _precision(case: Case) -> None:
    _compare_in(case, {"student": torch.bfloat16, "teacher": torch.bfloat16}, "signals in bfloat16")


def _autocast(case: Case) -> None:
    # autocast is off inside a loss: what reaches it is what nets under autocast give, beside a cache or another net
    _compare_in(case, {"student": torch.bfloat16}, "a student in bfloat16 and a teacher in float32")
    _compare_in(case, {"teacher": torch.bfloat16}, "a student in float32 and a teacher in bfloat16")


def _compare_in(case: Case, dtypes: Mapping[str, torch.dtype], words: str) -> None:
    """Against the same rounded numbers in float32; further roles are as the teacher."""

    def narrow(path: str, x: Tensor, *, back: bool) -> Tensor:
        role = path.partition(".")[0].partition("[")[0]
        dtype = dtypes.get("student" if role == "student" else "teacher")
        if role == "batch" or dtype is None or x.dtype != torch.float32:
            return x
        return x.to(dtype).float() if back else x.to(dtype)

    half, full = (case.mapped(partial(narrow, back=back)).answer() for back in (False, True))
    for name, total in half.totals.items():
        if total.sum.dtype != torch.float32:
            kind = str(total.sum.dtype).removeprefix("torch.")
            raise PromiseError(f"with {words} the sum{of(name)} is {kind}: {UPCAST}")
    wrong = difference(half, full)
    if wrong:
        raise PromiseError(f"with {words} {wrong}, as the same numbers give in float32: {UPCAST}")


def _minimal(case: Case) -> None:
    loss, _ = case.build()
    roles = read_by(loss, case.roles)
    student, teacher = roles["student"], roles.get("teacher")
    trained = "student" in case.models or any(True for _ in loss.parameters())
    if isinstance(student, tuple) or not isinstance(teacher, dict) or trained:
        return  # behind parts that are still to be trained no student equals its teacher
    if any(name not in teacher or teacher[name].shape != x.shape for name, x in student.items()):
        return
    equal = {name: teacher[name] for name in student}
    trials = [("as given", student), *((f"{abs(size):g} away", _moved(equal, size)) for size in STEPS)]

    def value(signals: dict[str, Tensor]) -> float:
        return replace(case, roles={**case.roles, "student": signals}, example=case.roles).answer().value

    least = value(equal)
    for where, signals in trials:
        found = value(signals)
        if not found >= least - 1e-5 * (1 + abs(least)):
            raise PromiseError(
                f"it is {least:.6g} where the student equals the teacher and less, {found:.6g}, where the student is "
                f"{where}: it would drive them apart. Is the sign right, is each in its place?"
            )


def _moved(signals: dict[str, Tensor], size: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: x + size * torch.randn(x.shape, generator=generator) if x.is_floating_point() else x
        for name, x in signals.items()
    }


def check_reference(case: Case, reference: Reference) -> None:
    """Compare the mean of every total, and the gradient of a single one where the reference has a graph.

    Raises:
        PromiseError: they differ.
    """
    ours = case.answer()
    expected, gradients = _expected(case, reference)
    if expected.keys() != ours.totals.keys():
        raise PromiseError(
            f"the reference has the totals {names_of(expected)}, and the loss {names_of(ours.totals)}: give a number "
            "for each by its name, or one number where there is one total"
        )
    for name, value in expected.items():
        total = ours.totals[name]
        found = float(total.sum.detach()) / max(1, int(total.count))
        if not math.isclose(found, value, rel_tol=1e-5, abs_tol=1e-7):
            times = f", which is {found / value:.4g} times as much" if value else ""
            raise PromiseError(
                f"the mean{of(name)} is {found:.7g}, and that of the reference {value:.7g}{times}: look for a factor "
                "of N, of C or of T squared"
            )
    for path, gradient in gradients.items():
        (total,) = ours.totals.values()
        wrong = apart(ours.gradients[path] / max(1, int(total.count)), gradient)
        if wrong:
            raise PromiseError(f"the mean is that of the reference, but its gradient at `{path}` {wrong}")


def _expected(case: Case, reference: Reference) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The means by name, and the gradients at the student's signals where there is a graph."""
    leaves: dict[str, Tensor] = {}
    found: Any = reference
    if callable(reference):
        found, leaves = case.call(case.build()[0], reference)
    if isinstance(found, Mapping):
        return {name: float(value) for name, value in found.items()}, {}
    if not isinstance(found, Tensor) or not found.requires_grad:
        return {"": float(found)}, {}
    gradients = torch.autograd.grad(found, list(leaves.values()), allow_unused=True)
    known = {path: g for path, g in zip(leaves, gradients, strict=True) if g is not None}
    return {"": float(found.detach())}, known


def reference_check(reference: Reference) -> Check[Case]:
    """The check against a reference."""
    return Check(
        "reference",
        "it gives what the reference gives",
        partial(check_reference, reference=reference),
        "let the reference take what `forward` takes, and return a number for each total",
    )


VALUES: tuple[Check[Case], ...] = (
    Check("precision", "signals in half precision are computed in float32", _precision, UPCAST),
    Check("autocast", "student and teacher may be of different precision", _autocast, UPCAST),
    Check("minimal", "nothing is better than a student that equals its teacher", _minimal, "let both be equal"),
)
