"""Cross-entropy with the labels: what a student learns without a teacher."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, masked_total
from kdcore.signals import IGNORE, Batch, Signals


class CrossEntropy(Loss):
    """``-sum_c y_c log softmax(student.logits)_c``, mean over the labelled positions.

    **Shape**: ``student.logits`` (N, C), (N, T, C) or (N, C, H, W), classes at the task's ``class_axis``;
    ``batch["labels"]`` integers without the class axis (-100 = no label), or floats of the shape of ``logits``.

    **Reduction**: ``count`` is the number of positions that have a label and that the mask keeps.

    Args:
        label_smoothing: share of the target spread evenly over the classes (those whose logit is not ``-inf``).
            0 by default: smoothing a teacher's training is known to make it teach worse (Mueller et al., 2019,
            arXiv 1906.02629).

    Raises:
        ValueError: ``label_smoothing`` is not in [0, 1); labels, mask or weight do not fit the logits.
        KeyError: the batch has no ``labels``.

    **Paper**: Szegedy et al., 2015 (arXiv 1512.00567), section 7, for label smoothing.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits"})

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing={label_smoothing} is not in [0, 1): it is a share of the target")
        self.label_smoothing = label_smoothing

    def count(self, batch: Batch) -> Tensor | None:
        if "labels" not in batch:
            return None
        selected = _selected(batch)
        if selected is not None:
            return selected.sum()
        labels = batch["labels"]
        return torch.tensor(labels.numel() // labels.shape[self.class_axis])

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        if "labels" not in batch:
            raise KeyError("cross_entropy reads the batch's `labels`, which this data does not give")
        labels, plain = batch["labels"], self.label_smoothing == 0.0 and "mask" not in batch and "weight" not in batch
        if plain and not labels.is_floating_point():
            # most batches: one kernel instead of three
            added = functional.cross_entropy_sum(student["logits"], labels, axis=self.class_axis)
            return Total(added, (labels != IGNORE).sum())
        logits = functional.hide(student["logits"], batch.get("mask"), self.class_axis)
        terms = functional.cross_entropy(
            logits, batch["labels"], label_smoothing=self.label_smoothing, axis=self.class_axis
        )
        total, selected = masked_total(terms, batch), _selected(batch)
        return total if selected is None else Total(total.sum, selected.sum())  # an unlabelled term is 0 already


def _selected(batch: Batch) -> Tensor | None:
    """The positions with a label that the mask keeps; ``None`` for all."""
    labels: Tensor = batch["labels"]
    mask: Tensor | None = batch.get("mask")
    if labels.is_floating_point():
        return mask
    labelled = labels != IGNORE
    # a mask of another shape goes on as it is: masked_total names both shapes
    return labelled if mask is None else labelled & mask if mask.shape == labels.shape else mask
