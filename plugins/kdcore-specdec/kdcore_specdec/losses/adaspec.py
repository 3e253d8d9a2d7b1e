"""AdaSPEC: a small draft learns only the tokens that a draft of its size can learn."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from kdcore.losses.base import Loss, Total
from kdcore.losses.functional import kl
from kdcore.signals import Batch, Signals
from kdcore_specdec.functional import token_terms, weighted_sum
from kdcore_specdec.losses.tokens import Tokens, check_chunk, check_same_vocabulary


class AdaSPEC(Loss):
    """``KL(p || q)``, mean over the share ``keep`` of tokens with the largest ``KL(p || q) - KL(p || r)``.

    p is the target's distribution, q the draft's, r that of a reference.

    The reference is a draft of the same size that was taught with plain KL in a stage before. Where it does much better
    than the draft being trained, there is something to learn; where it fails as well, capacity would be wasted.

    **Shape**: ``hidden`` (N, T, D), each model with a width of its own, and ``head`` (V, D) of student, teacher and
    reference; ``batch["labels"]`` (N, T), -100 where no loss is wanted.

    **Reduction**: ``count`` is the number of tokens kept: ``keep`` of the batch's labelled tokens, rounded up. They
    are chosen by comparing the batch's tokens with each other, so the loss is relational.

    Args:
        keep: the share of labelled tokens that are learnt from, in (0, 1]; 0.4 as in the paper.
        chunk: how many tokens' logits exist at a time; as many as make 4 million logits by default. Changes neither
            value nor gradient, beyond rounding.

    Raises:
        ValueError: a ``keep`` outside (0, 1], a ``chunk`` below 1; different vocabularies; mask, weight or signals that
            do not fit the labels.
        KeyError: the batch has no ``labels``.

    **Paper**: Hu et al., AdaSPEC: Selective Knowledge Distillation for Efficient Speculative Decoders, 2025
    (arXiv 2510.19779).
    **Deviation**: of tokens with equal gaps at the border the first ones are kept, so that their number is exact;
    a quantile as threshold keeps all or none of them.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {
            "student.hidden",
            "student.head",
            "teacher.hidden",
            "teacher.head",
            "reference.hidden",
            "reference.head",
        }
    )
    signal: ClassVar[str] = "hidden"
    relational: ClassVar[bool] = True

    def __init__(self, *, keep: float = 0.4, chunk: int | None = None) -> None:
        super().__init__()
        if not 0.0 < keep <= 1.0:
            raise ValueError(f"keep={keep} is not in (0, 1]: it is the share of tokens that are learnt from")
        check_chunk(chunk)
        self.keep, self.chunk = keep, chunk

    def forward(self, student: Signals, teacher: Signals, batch: Batch, *, reference: Signals) -> Total:  # type: ignore[override]
        tokens = Tokens(batch)
        draft, target = tokens.rows(student, "draft"), tokens.rows(teacher, "target")
        before = tokens.rows(reference, "reference")
        for rows, who in ((target, "target"), (before, "reference")):
            check_same_vocabulary(draft, rows, who)
        gap = token_terms(_gap, draft, before, target, chunk=self.chunk)
        kept = largest(gap, self.keep, among=tokens.counted)
        added = weighted_sum(kl, draft, target, weights=tokens.weights * kept, chunk=self.chunk)
        return Total(added.float(), kept.sum())


def _gap(draft: Tensor, reference: Tensor, target: Tensor) -> Tensor:
    return kl(draft, target) - kl(reference, target)


def largest(values: Tensor, share: float, *, among: Tensor) -> Tensor:
    """A mask (M,) of the largest values: ``share`` of those that ``among`` (M,) marks, rounded up. No host sync."""
    order = values.masked_fill(~among, -torch.inf).argsort(descending=True, stable=True)
    wanted = (among.sum() * share - 1e-6).ceil()  # 0.4 x 5 is a little above 2 in floating point
    rank = torch.arange(len(values), device=values.device)
    return torch.zeros_like(among).scatter(0, order, rank < wanted)
