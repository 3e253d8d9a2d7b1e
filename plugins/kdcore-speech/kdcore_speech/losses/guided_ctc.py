"""CTC nets that speak when their teacher does."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from kdcore.losses.base import Loss, Total, total_of
from kdcore.signals import Batch, Signals

from kdcore_speech.losses.moments import moments


class GuidedCTC(Loss):
    """``-sum_t q_t(k_t)`` over the frames in which the teacher's best label ``k_t`` is no blank, mean over utterances.

    q = softmax(student.logits). Beside ``speech.ctc`` it makes the student say each label when the teacher says it,
    so that frame-level losses then compare like with like, and several students can be averaged frame by frame.

    **Shape**: ``student.logits`` (N, T, V) with ``student.frames`` (N,), ``teacher.logits`` (N, T', V) with
    ``teacher.frames`` (N,). Where frame rates differ see :func:`kdcore_speech.losses.moments.moments`.

    **Reduction**: ``count`` is the number of utterances, as that of ``speech.ctc``; the frames of each are summed.
    Beside that loss a ``weight`` of 1 is the paper's.

    Args:
        blank: the label that says nothing; filled in from the data.

    Raises:
        ValueError: the vocabularies are of different size.

    **Paper**: Kurata and Audhkhasi, Guiding CTC Posterior Spike Timings for Improved Posterior Fusion and Knowledge
    Distillation, 2019 (arXiv 1904.08311). **Deviation**: nets of different frame rate.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {"student.logits", "student.frames", "teacher.logits", "teacher.frames"}
    )

    def __init__(self, *, blank: int) -> None:
        super().__init__()
        self.blank = blank

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        ours, theirs, valid = moments(student, teacher, self.blank)
        best = theirs.argmax(-1)
        said = ours.softmax(-1).gather(-1, best.unsqueeze(-1)).squeeze(-1)
        spikes = valid & (best != self.blank)
        return total_of(-torch.where(spikes, said, 0.0).sum(), len(ours))
