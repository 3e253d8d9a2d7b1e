"""A draft may tell apart fewer tokens than its target: the most frequent ones, in the order of the target's ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def most_frequent(counts: Sequence[int], size: int) -> Tensor:
    """The ``size`` tokens with the highest counts, as ascending ids int64 (size,); of equal counts the lower id.

    Raises:
        ValueError: there are not so many tokens.
    """
    if not 0 < size <= len(counts):
        raise ValueError(
            f"draft_vocabulary={size} keeps that many of the target's {len(counts)} tokens: give 1 to {len(counts)}"
        )
    order = torch.tensor(counts).argsort(descending=True, stable=True)
    return order[:size].sort().values


def offsets(tokens: Tensor) -> Tensor:
    """``d2t`` of the speculators format, int64 (size,): what is added to a draft's id to give the target's."""
    return tokens - torch.arange(len(tokens), device=tokens.device)


def tokens_of(d2t: Tensor) -> Tensor:
    """The target's ids (size,) behind :func:`offsets`."""
    return d2t + torch.arange(len(d2t), device=d2t.device)


def known(tokens: Tensor, vocabulary: int) -> Tensor:
    """``t2d`` of the speculators format, bool (vocabulary,): which of the target's tokens the draft has."""
    mask = torch.zeros(vocabulary, dtype=torch.bool, device=tokens.device)
    return mask.index_fill(0, tokens, True)


def spread(logits: Tensor, tokens: Tensor, vocabulary: int) -> Tensor:
    """Logits (..., size) over a draft's tokens -> (..., vocabulary), ``-inf`` for tokens that it does not have."""
    if len(tokens) == vocabulary:
        return logits
    whole = logits.new_full((*logits.shape[:-1], vocabulary), -torch.inf)
    return whole.index_copy(-1, tokens, logits)
