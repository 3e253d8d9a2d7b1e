"""DeiT: the teacher's decision as a label, for a head of its own."""

from __future__ import annotations

from typing import Any, ClassVar

from kdcore import Loss, Total
from kdcore.losses import functional
from kdcore.losses.base import masked_count, masked_total
from kdcore.signals import Batch, Signals
from torch import Tensor


class HardLabels(Loss):
    """``-log softmax(student.distillation_token)_y`` with ``y = argmax_c teacher.logits_c``, mean over positions.

    Of a net of timm with two heads (``deit_tiny_distilled_patch16_224``), bind the head of the distillation token with
    a tap, ``at: TAP``; bind the class token's in ``cross_entropy`` the same way. A net without such a token learns with
    ``read: {student.distillation_token: student.logits}``.

    **Shape**: ``student.distillation_token`` and ``teacher.logits`` (N, C), (N, T, C) or (N, C, H, W), classes at the
    task's ``class_axis``.

    **Reduction**: ``count`` is the number of positions that the mask keeps, labelled or not.

    Args:
        label_smoothing: share of the target spread evenly over the classes. 0 by default; the paper smooths true labels
            by 0.1.

    Raises:
        ValueError: ``label_smoothing`` is not in [0, 1); the two signals differ in shape; the mask does not fit them.

    **Paper**: Touvron et al., Training data-efficient image transformers and distillation through attention, 2020
    (arXiv 2012.12877), hard-label distillation. The paper's objective is half of this and half the cross-entropy of the
    class token: two losses of weight 0.5.
    **Deviation**: the paper answers with the sum of the two heads' softmax outputs; timm's nets, and so what is scored
    and exported, with the mean of their logits.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.distillation_token", "teacher.logits"})
    signal: ClassVar[str] = "distillation_token"

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing={label_smoothing} is not in [0, 1): it is a share of the target")
        self.label_smoothing = label_smoothing

    def count(self, batch: Batch) -> Tensor | None:
        return masked_count(batch)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        ours, theirs, mask = student["distillation_token"], teacher["logits"], batch.get("mask")
        if ours.shape != theirs.shape:
            raise ValueError(
                f"the student's head has shape {tuple(ours.shape)}, the teacher's logits {tuple(theirs.shape)}: both "
                "must be over the same classes"
            )
        terms = functional.cross_entropy(
            functional.hide(ours, mask, self.class_axis),
            theirs.argmax(self.class_axis),
            label_smoothing=self.label_smoothing,
            axis=self.class_axis,
        )
        return masked_total(terms, batch)
