"""Medusa-1: every head learns the data's own tokens, the target stays as it is."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from kdcore.losses.base import Loss, Total
from kdcore.losses.functional import cross_entropy
from kdcore.signals import IGNORE, Batch, Signals
from kdcore_specdec.functional import Rows
from kdcore_specdec.losses.ahead import ahead, guess
from kdcore_specdec.losses.eagle import check_decay
from kdcore_specdec.losses.tokens import Tokens, check_chunk


class Medusa(Loss):
    """``sum_k decay^k CE(q_k, x)``, k = 1, ..., K: head k against the data's token k + 1 after the hidden state.

    Each head's term is a mean over the tokens that it is about. To learn the target's distributions in place of the
    data's tokens use the loss `specdec.eagle3` on the same heads; on text that the target has written the two agree.

    **Shape**: ``student.unrolled`` (N, K, T, D) and ``student.heads`` (K, V', D), ``student.tokens`` (V',),
    ``student.predicts`` (N, T); ``batch["labels"]`` (N, T), -100 where no loss is wanted.

    **Reduction**: a total for each head, ``head1`` and so on, whose ``count`` is the number of labelled tokens it is
    about, of those that the draft's vocabulary has.

    Args:
        decay: head k counts ``decay^k``; 0.8 in the paper.
        chunk: how many tokens' logits exist at a time; as many as make 4 million logits by default. Changes neither
            value nor gradient, beyond rounding.

    Raises:
        ValueError: a ``decay`` not in (0, 1], a ``chunk`` below 1, mask or weight that do not fit the labels.
        KeyError: the batch has no ``labels``.

    **Paper**: Cai et al., Medusa, 2024 (arXiv 2401.10774), eq. 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {"student.unrolled", "student.heads", "student.tokens", "student.predicts"}
    )
    signal: ClassVar[str] = "unrolled"

    def __init__(self, *, decay: float = 0.8, chunk: int | None = None) -> None:
        super().__init__()
        check_decay(decay)
        check_chunk(chunk)
        self.decay, self.chunk = decay, chunk

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        totals = {}
        for head in range(student["unrolled"].shape[1]):
            moved = ahead(batch, student["predicts"], head)
            moved["labels"] = within(moved["labels"], student["tokens"])
            tokens = Tokens(moved)
            ours = tokens.rows(guess(student, head), "draft")
            total = tokens.total(cross_entropy, ours, Rows(tokens.labels), chunk=self.chunk)
            totals[f"head{head + 1}"] = Total(total.sum * self.decay ** (head + 1), total.count)
        return totals


def within(labels: Tensor, tokens: Tensor) -> Tensor:
    """The target's ids as those of a draft with these ``tokens`` (ascending); -100 for what it does not have."""
    at = torch.searchsorted(tokens, labels.clamp(min=0)).clamp(max=len(tokens) - 1)
    return torch.where(tokens[at] == labels, at, IGNORE)
