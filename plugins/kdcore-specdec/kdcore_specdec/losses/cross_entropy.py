"""Cross-entropy with the next token, without ever holding all logits."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from kdcore.losses.base import Loss, Total
from kdcore.losses.functional import cross_entropy
from kdcore.signals import Batch, Signals
from kdcore_specdec.functional import Rows
from kdcore_specdec.fused import fused_cross_entropy
from kdcore_specdec.losses.tokens import Tokens, check_chunk, count_labels


class CrossEntropy(Loss):
    """``-log softmax(student.hidden @ student.head.T)`` at the label, mean over the labelled tokens.

    **Shape**: ``student.hidden`` (N, T, D), ``student.head`` (V, D); ``batch["labels"]`` (N, T), -100 where no loss is
    wanted.

    **Reduction**: ``count`` is the number of labelled tokens that the mask keeps.

    Args:
        chunk: how many tokens' logits exist at a time; as many as make 4 million logits by default. Changes neither
            value nor gradient, beyond rounding.

    Raises:
        ValueError: a ``chunk`` below 1; mask, weight or signals that do not fit the labels.
        KeyError: the batch has no ``labels``.

    **Paper**: none; the value is that of the core's ``cross_entropy`` on logits.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.hidden", "student.head"})
    signal: ClassVar[str] = "hidden"

    def __init__(self, *, chunk: int | None = None) -> None:
        super().__init__()
        check_chunk(chunk)
        self.chunk = chunk

    def count(self, batch: Batch) -> Tensor | None:
        return count_labels(batch)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        tokens = Tokens(batch)
        rows = tokens.rows(student, "model")
        fused = fused_cross_entropy(rows, tokens.labels)
        return tokens.total(cross_entropy, rows, Rows(tokens.labels), chunk=self.chunk, fused=fused)
