"""What a net knew of earlier classes, kept on the few clips of them that are rehearsed."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, check_temperature
from kdcore.schedules import Scheduled
from kdcore.signals import IGNORE, Batch, Signals
from torch import Tensor

from kdcore_speech.losses.clips import in_clip


class RehearsedFeatures(Loss):
    """``1/D sum_d (s_d - t_d)^2`` between features of clips that are rehearsed, mean over frames.

    The teacher is the model of the step before (a slot of its own, or the same model under another name); ``mse`` with
    ``task: {mask_of: ...}`` does the same on all clips.

    **Shape**: ``student.feature`` and ``teacher.feature`` (N, T, D) or (N, D); the batch's ``rehearsed`` bool (N,),
    which the action ``speech.rehearse`` writes.

    **Reduction**: ``count`` is the number of frames that lie in a rehearsed clip, or of such clips for (N, D).

    Raises:
        KeyError: the batch has no ``rehearsed``, or no ``audio``.
        ValueError: the two signals differ in shape.

    **Paper**: Cappellazzo et al., Sequence-Level Knowledge Distillation for Class-Incremental End-to-End Spoken
    Language Understanding, 2023 (arXiv 2305.13899), audio-KD; Cappellazzo, Falavigna, Brutti, An Investigation of the
    Combination of Rehearsal and Knowledge Distillation in Continual Learning for Spoken Language Understanding, 2022
    (arXiv 2211.08161), feature level. **Deviation**: the mean over features, as in ``mse``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.feature", "teacher.feature"})
    signal: ClassVar[str] = "feature"

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        ours, theirs = student["feature"], teacher["feature"]
        counts = _rehearsed(batch)
        if ours.ndim == 3:
            counts = counts.unsqueeze(1) & in_clip(batch, ours.shape[1])
        terms = functional.squared_error(functional.hide(ours, counts), functional.hide(theirs, counts))
        return Total((terms * counts).sum().float(), counts.sum())


class RehearsedPredictions(Loss):
    """``T^2 KL(softmax(teacher.logits / T) || softmax(student.logits / T))`` of clips that are rehearsed, mean over
    labels.

    On logits of clips it keeps what the net said of earlier classes, on logits of tokens (a sequence-to-sequence net,
    whose transcripts begin with the class) what it said next; ``kl`` does the same on all clips.

    **Shape**: both ``logits`` (N, C) or (N, U, V), with ``labels`` (N,) or (N, U), -100 where there is none, and
    ``rehearsed`` bool (N,) in the batch, which the action ``speech.rehearse`` writes.

    **Reduction**: ``count`` is the number of labels of rehearsed clips.

    Args:
        known: the classes that the teacher knows, where the nets have an output for each of all classes: the others are
            left out of both distributions. By default all outputs count.
        temperature: T, a number above 0 or a schedule; 1 by default, the plain divergence.

    Raises:
        KeyError: the batch has no ``rehearsed`` or no ``labels``.
        ValueError: fewer than two ``known`` classes; ``temperature`` is not above 0; the two signals differ in shape.

    **Paper**: Cappellazzo et al., 2023 (arXiv 2305.13899), tok-KD; Cappellazzo, Falavigna, Brutti, 2022 (arXiv
    2211.08161), predictions level. **Deviation**: the factor T^2, as in ``kl``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})

    known: Tensor | None

    def __init__(self, *, known: list[int] | None = None, temperature: Scheduled = 1.0) -> None:
        super().__init__()
        if known is not None and len(set(known)) < 2:
            raise ValueError(f"known={known}: give two classes at least, or leave it out to compare all outputs")
        check_temperature(temperature)
        self.temperature = temperature
        self.register_buffer("known", None if known is None else torch.tensor(known), persistent=False)

    def count(self, batch: Batch) -> Tensor | None:
        return torch.as_tensor(_labelled(batch).sum()) if "labels" in batch else None

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        temperature, counts = self.now(self.temperature), _labelled(batch)
        ours, theirs = (functional.hide(signals["logits"], counts) for signals in (student, teacher))
        if self.known is not None:
            ours, theirs = ours.index_select(-1, self.known), theirs.index_select(-1, self.known)
        terms = functional.kl(ours, theirs, temperature=temperature) * temperature**2
        return Total((terms * counts).sum().float(), counts.sum())


def _rehearsed(batch: Batch) -> Tensor:
    if "rehearsed" not in batch:
        raise KeyError(
            "the batch has no `rehearsed`: run the action `speech.rehearse` in a stage before, and give `data: {table: "
            "THAT_STAGE}`"
        )
    return torch.as_tensor(batch["rehearsed"]).bool()


def _labelled(batch: Batch) -> Tensor:
    """Which labels are those of rehearsed clips, of the shape of ``labels``."""
    if "labels" not in batch:
        raise KeyError("the batch has no `labels`, beside which the logits lie; for a CTC net take `speech.frame_kl`")
    labels: Tensor = batch["labels"]
    return (labels != IGNORE) & _rehearsed(batch).reshape(-1, *[1] * (labels.ndim - 1))
