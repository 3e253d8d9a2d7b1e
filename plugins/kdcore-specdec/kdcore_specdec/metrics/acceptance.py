"""How often a target would accept what a draft proposes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from kdcore.losses.functional import cross_entropy, tvd
from kdcore.signals import IGNORE, Signals
from kdcore_specdec.functional import Rows, token_terms
from kdcore_specdec.losses.tokens import check_chunk


class ExpectedAcceptance(Metric):
    """``1 - 1/2 sum_v |p_v - q_v|``: the rate at which speculative sampling accepts a token of the draft's q for the
    target's p, both at temperature 1; mean over the labelled tokens.

    In [0, 1], more is better. Where there is no target, the data's own next token stands for it, with all of the
    probability; the value is then the mean probability of that token. NaN before anything was seen.

    Args:
        chunk: tokens at a time, where logits are computed from hidden states; by default sized by the vocabulary.
            Changes nothing but memory.

    Raises:
        ValueError: ``chunk`` is below 1, or the two have different vocabularies.

    **Paper**: Leviathan, Kalman and Matias, 2022 (arXiv 2211.17192), section 3.3.
    """

    takes: ClassVar[str] = "acceptance"
    compares: ClassVar[bool] = True
    higher_is_better = True
    is_differentiable = True
    full_state_update = False

    accepted: Tensor
    total: Tensor

    def __init__(self, *, chunk: int | None = None) -> None:
        super().__init__()
        check_chunk(chunk)
        self.chunk = chunk
        self.add_state("accepted", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, student: Signals, teacher: Signals | None, labels: Tensor) -> None:
        """Add a batch.

        Args:
            student: ``logits`` (N, T, V), or ``hidden`` (N, T, D) and ``head`` (V, D).
            teacher: likewise, or ``None``.
            labels: int64 (N, T); positions with -100 are left out.
        """
        terms, _ = self._terms(student, teacher, labels)
        self.accepted = self.accepted + terms.double().sum()
        self.total = self.total + len(terms)

    def compute(self) -> Tensor:
        return (self.accepted / self.total).float()

    def scores(self, student: Signals, teacher: Signals | None, labels: Tensor) -> Tensor:
        """The mean over each row, (N,); 0 for a row without labels."""
        terms, index = self._terms(student, teacher, labels)
        sums = terms.new_zeros(len(labels)).index_add_(0, index // labels.shape[1], terms)
        return sums / (labels != IGNORE).sum(1).clamp(min=1)

    def _terms(self, student: Signals, teacher: Signals | None, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One value for each labelled token, (M,), and where it stands in the flattened batch."""
        index = (labels != IGNORE).flatten().nonzero()[:, 0]
        ours = _rows(student, index)
        if teacher is None:
            others = Rows(labels.flatten()[index])
            return (-token_terms(cross_entropy, ours, others, chunk=self.chunk)).exp(), index
        theirs = _rows(teacher, index)
        if ours.width != theirs.width:
            raise ValueError(
                f"the draft tells {ours.width} tokens apart and the target {theirs.width}: what is accepted of a draft "
                "with a smaller vocabulary is told by its logits (`task.logits: true`)"
            )
        return 1.0 - token_terms(tvd, ours, theirs, chunk=self.chunk), index


def _rows(signals: Signals, index: Tensor) -> Rows:
    source = "logits" if "logits" in signals else "hidden"
    rows = signals[source].flatten(0, 1)[index]
    return Rows(rows) if source == "logits" else Rows(rows, signals["head"])
