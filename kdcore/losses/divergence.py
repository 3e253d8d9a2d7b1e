"""The divergences between two distributions over classes, behind one name."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, check_temperature, masked_count, masked_total
from kdcore.schedules import Scheduled
from kdcore.signals import Batch, Signals

KINDS = ("forward_kl", "reverse_kl", "jsd", "tvd")


class Divergence(Loss):
    """A divergence between softmax(teacher.logits / T) = p and softmax(student.logits / T) = q, mean over positions.

    - ``forward_kl``: ``T^2 KL(p || q)``, the loss ``kl``; covers all of the teacher's modes.
    - ``reverse_kl``: ``T^2 KL(q || p)``; settles on the teacher's main modes.
    - ``jsd``: ``T^2 (beta KL(p || m) + (1 - beta) KL(q || m))``, ``m = beta p + (1 - beta) q``; bounded.
    - ``tvd``: ``T/2 sum_c |p_c - q_c|``; at T = 1 one minus the acceptance rate of speculative decoding.

    **Shape**: both ``logits`` (N, C), (N, T, C) or (N, C, H, W), classes at the task's ``class_axis``.

    **Reduction**: ``count`` is the number of positions that the mask keeps, labelled or not; classes are summed.

    Args:
        kind: which divergence; ``jsd`` by default, the bounded compromise between the two KLs.
        beta: the teacher's share in the mixture, in (0, 1); read by ``jsd`` only. 0.5, the symmetric case.
        temperature: T, a number above 0 or a schedule; 1 as in all three papers.

    Raises:
        ValueError: an unknown ``kind``, a ``beta`` outside (0, 1), a ``temperature`` not above 0; the two signals
            differ in shape; mask or weight do not fit them.

    **Paper**: Agarwal et al., GKD, 2023 (arXiv 2306.13649), section 2 (``jsd``, reverse KL); Zhou et al., DistillSpec,
    2023 (arXiv 2310.08461) (all four); Wen et al., 2023 (arXiv 2307.15190) (``tvd``).
    The factors T^2 and T are ours: they keep the gradient's size when T changes, as Hinton et al. do for KL.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})

    def __init__(
        self,
        *,
        kind: Literal["forward_kl", "reverse_kl", "jsd", "tvd"] = "jsd",
        beta: float = 0.5,
        temperature: Scheduled = 1.0,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is no divergence known here: use one of {', '.join(KINDS)}")
        if not 0.0 < beta < 1.0:
            raise ValueError(
                f"beta={beta} is not in (0, 1): at both ends jsd is 0 everywhere; use kind forward_kl or reverse_kl"
            )
        check_temperature(temperature)
        self.kind, self.beta, self.temperature = kind, beta, temperature

    def count(self, batch: Batch) -> Tensor | None:
        return masked_count(batch)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        mask, axis, temperature = batch.get("mask"), self.class_axis, self.now(self.temperature)
        signals = (functional.hide(logits, mask, axis) for logits in (student["logits"], teacher["logits"]))
        terms = self._terms(*signals, temperature=temperature)
        return masked_total(terms * (temperature if self.kind == "tvd" else temperature**2), batch)

    def _terms(self, student: Tensor, teacher: Tensor, *, temperature: float | Tensor) -> Tensor:
        axis = self.class_axis
        if self.kind == "forward_kl":
            return functional.kl(student, teacher, temperature=temperature, axis=axis)
        if self.kind == "reverse_kl":
            return functional.reverse_kl(student, teacher, temperature=temperature, axis=axis)
        if self.kind == "tvd":
            return functional.tvd(student, teacher, temperature=temperature, axis=axis)
        return functional.jsd(student, teacher, beta=self.beta, temperature=temperature, axis=axis)
