"""Rows of tokens moved in time, without letting one document of a packed row see another."""

from __future__ import annotations

import torch
from torch import Tensor


def later(x: Tensor, by: int) -> Tensor:
    """(N, T, ...) whose position t holds ``x[:, t - by]``; zeros come in at the start."""
    if by == 0:
        return x
    moved = torch.zeros_like(x)
    moved[:, by:] = x[:, :-by]
    return moved


def earlier(x: Tensor, by: int) -> Tensor:
    """(N, T, ...) whose position t holds ``x[:, t + by]``; zeros come in at the end."""
    if by == 0:
        return x
    moved = torch.zeros_like(x)
    moved[:, :-by] = x[:, by:]
    return moved


def has_before(tokens: Tensor, segment: Tensor | None, by: int = 1) -> Tensor:
    """bool (N, T): position t - ``by`` is there and in the document of t. ``segment`` 0 is padding."""
    document = torch.ones_like(tokens) if segment is None else segment
    return (later(document, by) == document) & (document != 0)


def has_after(tokens: Tensor, segment: Tensor | None, by: int = 1) -> Tensor:
    """bool (N, T): position t + ``by`` is there and in the document of t. ``segment`` 0 is padding."""
    document = torch.ones_like(tokens) if segment is None else segment
    return (earlier(document, by) == document) & (document != 0)


def causal_mask(tokens: Tensor, segment: Tensor | None, seen: Tensor) -> Tensor:
    """bool (N, 1, T, T): which key (last axis) a query sees.

    Those up to itself, of its own document, that ``seen`` (N, T) allows; and always itself, as a softmax over nothing
    is no number.
    """
    n = tokens.shape[1]
    mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril() & seen.unsqueeze(1)
    if segment is not None:
        mask = mask & (segment.unsqueeze(1) == segment.unsqueeze(2))
    return (mask | torch.eye(n, dtype=torch.bool, device=tokens.device)).unsqueeze(1)
