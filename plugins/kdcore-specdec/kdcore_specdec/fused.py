"""Liger's fused kernels for the head and the loss behind it: used where they are installed and faster than ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdcore_specdec.functional import Computed, Rows, with_gradients

_FASTER: dict[tuple[Any, ...], bool] = {}
"""Whether a fused kernel was faster at a shape."""

ROUNDS = 3
"""How often each is run to find out; the fastest counts, so that compiling and other users of the device do not."""


class Fused(NamedTuple):
    """A sum over all rows by a fused kernel, and the kernel's name."""

    name: str
    run: Callable[[], Tensor]


def fused_divergence(kind: str, beta: float, temperature: float | Tensor, student: Rows, teacher: Rows) -> Fused | None:
    """The sum of a divergence over all rows, with Liger's kernel; ``None`` where it has none for these.

    A row that is zero in both models counts for nothing: both then say that all tokens are equally likely.
    """
    share = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": beta}.get(kind)
    if share is None or isinstance(temperature, Tensor) or not _suits(student) or not _suits(teacher):
        return None
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    kernel = LigerFusedLinearJSD(jsd_beta=share, temperature=temperature)
    given = teacher.values, teacher.head.to(teacher.values.dtype) if teacher.head is not None else None

    def run(values: Tensor, head: Tensor) -> Tensor:
        mean: Tensor = kernel(values, head, *given, None)
        return mean * len(values)

    return Fused(kind, partial(with_gradients, partial(_differentiated, run, student), student))


def fused_cross_entropy(student: Rows, labels: Tensor) -> Fused | None:
    """The sum of the cross-entropy with labels (-100 counts for nothing); ``None`` where there is no kernel for it."""
    if not _suits(student):
        return None
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    kernel = LigerFusedLinearCrossEntropyLoss(reduction="sum")

    def run(values: Tensor, head: Tensor) -> Tensor:
        added: Tensor = kernel(head, values, labels)
        return added

    return Fused("cross_entropy", partial(with_gradients, partial(_differentiated, run, student), student))


def fastest(plain: Callable[[], Tensor], fused: Fused | None, student: Rows) -> Tensor:
    """The result of the faster one; which that is gets measured once for each shape, and is remembered."""
    if fused is None:
        return plain()
    learns = (
        torch.is_grad_enabled() and student.values.requires_grad,
        student.head is not None and student.head.requires_grad,
    )
    key = (fused.name, len(student), student.width, student.values.shape[1], student.values.dtype, *learns)
    if key not in _FASTER:
        ours, theirs = (min(_seconds(way) for _ in range(ROUNDS)) for way in (plain, fused.run))
        _FASTER[key] = theirs < ours
    return fused.run() if _FASTER[key] else plain()


def _suits(rows: Rows) -> bool:
    return rows.head is not None and rows.values.is_cuda and len(rows) > 0 and _installed()


@cache
def _installed() -> bool:
    return find_spec("liger_kernel") is not None


def _differentiated(run: Callable[[Tensor, Tensor], Tensor], student: Rows, to_values: bool, to_head: bool) -> Computed:
    """Liger's own backward scales its gradients in place, which a second backward would do again: taken out of it."""
    values = student.values.detach().requires_grad_(to_values)
    head = _head(student).detach().to(values.dtype).requires_grad_(to_head)
    wanted = [tensor for tensor in (values, head) if tensor.requires_grad]
    with torch.set_grad_enabled(bool(wanted)):
        total = run(values, head)
    gradients = iter(torch.autograd.grad(total, wanted) if wanted else ())
    return total.detach(), next(gradients) if to_values else None, next(gradients) if to_head else None


def _head(rows: Rows) -> Tensor:
    if rows.head is None:
        raise ValueError("a fused kernel multiplies hidden states by a head, and these rows are logits already")
    return rows.head


def _seconds(way: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    float(way())  # waits for the device
    return time.perf_counter() - start
