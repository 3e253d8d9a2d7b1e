"""Losses over a vocabulary, a chunk of tokens at a time.

The logits of 4096 tokens over 128,000 entries fill 2 GB in float32, and a loss keeps several copies of them until its
backward. Here they exist for one chunk of tokens only: the gradient of a chunk is taken as soon as its terms are
known, so what is kept grows with tokens x width and with vocabulary x width, never with tokens x vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcore.losses import functional

Terms = Callable[..., Tensor]
"""One term per token: (the student's logits (c, V), what the other rows hold of the same tokens, ...) -> (c,)."""

Computed = tuple[Tensor, Tensor | None, Tensor | None]
"""A sum over tokens, and its gradients at the student's rows and head where they were wanted."""

DIVERGENCES: Mapping[str, Callable[..., Tensor]] = {
    "forward_kl": functional.kl,
    "reverse_kl": functional.reverse_kl,
    "jsd": functional.jsd,
    "tvd": functional.tvd,
}

ELEMENTS = 2**22
"""Logits at a time, 16 MB in float32. On a CPU smaller chunks are slower, as the head's gradient is added up more
often, and larger ones leave its caches; a GPU cares less."""


@dataclass(frozen=True)
class Rows:
    """Something for each of M tokens, of which a chunk is made when it is asked for.

    Args:
        values: (M, ...) itself; with a head the hidden states (M, D).
        head: (V, D): the rows are then the logits ``values @ head.T``.

    Raises:
        ValueError: the head does not read hidden states of that width.
    """

    values: Tensor
    head: Tensor | None = None

    def __post_init__(self) -> None:
        if self.head is not None and self.head.shape[1] != self.values.shape[1]:
            raise ValueError(
                f"hidden states of width {self.values.shape[1]} do not fit a head of shape {tuple(self.head.shape)}: "
                "the head's second axis is the width that it reads"
            )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        """V where the rows are logits."""
        return self.values.shape[-1] if self.head is None else len(self.head)

    def at(self, where: slice) -> Tensor:
        """The rows of one chunk, without a graph."""
        with torch.no_grad():
            return _rows(self.values[where], self.head)


def chunks(n: int, size: int) -> Iterator[slice]:
    """``size`` tokens at a time."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def chunk_of(rows: Rows, chunk: int | None) -> int:
    """Tokens at a time: ``chunk``, or as many as make :data:`ELEMENTS` logits."""
    return max(1, ELEMENTS // rows.width) if chunk is None else chunk


def token_terms(terms: Terms, *rows: Rows, chunk: int | None = None) -> Tensor:
    """The term of each token, (M,) float32, without a graph."""
    parts = [terms(*(one.at(where) for one in rows)) for where in chunks(len(rows[0]), chunk_of(rows[0], chunk))]
    return torch.cat(parts) if parts else rows[0].values.new_zeros(0, dtype=torch.float32)


def weighted_sum(terms: Terms, student: Rows, *others: Rows, weights: Tensor, chunk: int | None = None) -> Tensor:
    """``sum_m weights_m terms_m``, with gradients to the student's rows and head; the others are constants.

    Args:
        terms: gives one term per token, each from its own row alone.
        student: whose logits come first in ``terms``.
        others: teachers' logits, labels: what comes next, as many tokens.
        weights: (M,) float32; a token of weight 0 is computed all the same.
        chunk: tokens at a time; see :func:`chunk_of`.
    """
    size = chunk_of(student, chunk)
    if len(student) <= size:  # autograd needs no more memory for one chunk, and less time
        logits = _rows(student.values, student.head)
        return (terms(logits, *(one.at(slice(None)) for one in others)) * weights).sum()
    return with_gradients(partial(_chunked, terms, student, others, weights, size), student)


def with_gradients(compute: Callable[[bool, bool], Computed], student: Rows) -> Tensor:
    """A sum whose gradients are known together with it; backward multiplies them by what comes from above.

    Args:
        compute: is told whether the gradients at the student's rows and at its head are wanted.
        student: what they are the gradients of.
    """
    total: Tensor = _Known.apply(student.values, student.head, compute)
    return total


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, head: Tensor | None, compute: Callable[[bool, bool], Computed]) -> Tensor:
        total, *gradients = compute(*ctx.needs_input_grad[:2])
        ctx.save_for_backward(*gradients)
        ctx.dtypes = values.dtype, None if head is None else head.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, from_above: Tensor) -> tuple[Tensor | None, ...]:
        saved = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if one is None else (one * from_above).to(dtype) for one, dtype in saved), None


def _chunked(
    terms: Terms, student: Rows, others: tuple[Rows, ...], weights: Tensor, size: int, to_values: bool, to_head: bool
) -> Computed:
    values, head = student.values, student.head
    of_values = torch.empty_like(values, dtype=_wide(values)) if to_values else None
    # in float32 also where the head is bf16: of many small terms that are added up most get lost otherwise
    of_head = torch.zeros_like(head, dtype=_wide(head)) if to_head and head is not None else None
    total = torch.zeros((), dtype=_wide(values), device=values.device)
    for where in chunks(len(values), size):
        part, gradient = _one_chunk(terms, student, others, weights, where, to_values or to_head)
        total += part
        if gradient is not None:
            if of_values is not None:
                of_values[where] = gradient if head is None else gradient @ head.to(gradient.dtype)
            if of_head is not None:
                _add_product(of_head, gradient, values[where])
            del gradient  # or it lives until the next chunk's is there
    return total, of_values, of_head


def _one_chunk(
    terms: Terms, student: Rows, others: tuple[Rows, ...], weights: Tensor, where: slice, learns: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum over one chunk, and its gradient at the student's logits. All else is freed on return."""
    logits, given = student.at(where), [other.at(where) for other in others]
    with torch.set_grad_enabled(learns):
        logits = logits.detach().requires_grad_(learns)
        part = (terms(logits, *given) * weights[where]).sum()
    # a graph may be missing although it is wanted: terms of the others alone
    gradient = torch.autograd.grad(part, logits)[0] if part.requires_grad else None
    return part.detach(), gradient


def _rows(values: Tensor, head: Tensor | None) -> Tensor:
    return values if head is None else values @ head.to(values.dtype).T


def _wide(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)


def _add_product(of_head: Tensor, gradient: Tensor, rows: Tensor) -> None:
    """``gradient.T @ rows`` on top, in place where the types allow it."""
    if gradient.dtype == rows.dtype == of_head.dtype:
        of_head.addmm_(gradient.T, rows)
    else:
        of_head.add_(gradient.T @ rows.to(gradient.dtype))
