"""Divergences between a target's and a draft's distribution over tokens, without ever holding all logits."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor

from kdcore.losses.base import Loss, Total, check_temperature
from kdcore.schedules import Scheduled
from kdcore.signals import Batch, Signals
from kdcore_specdec.functional import DIVERGENCES
from kdcore_specdec.fused import fused_divergence
from kdcore_specdec.losses.tokens import Source, Tokens, check_chunk, check_same_vocabulary, count_labels


class Divergence(Loss):
    """A divergence between p = softmax(target / T) and q = softmax(draft / T), mean over the labelled tokens.

    - ``forward_kl``: ``T^2 KL(p || q)``; covers all that the target may say.
    - ``reverse_kl``: ``T^2 KL(q || p)``; settles on what it says most.
    - ``jsd``: ``T^2 (beta KL(p || m) + (1 - beta) KL(q || m))``, ``m = beta p + (1 - beta) q``; bounded.
    - ``tvd``: ``T/2 sum_v |p_v - q_v|``; at T = 1 one minus the rate at which speculative decoding accepts.

    **Shape**: both ``hidden`` (N, T, D), each with a width of its own, and ``head`` (V, D); ``batch["labels"]`` (N, T),
    -100 where no loss is wanted. With ``teacher_signal: logits`` the teacher gives ``logits`` (N, T, V) instead.

    **Reduction**: ``count`` is the number of labelled tokens that the mask keeps.

    Args:
        kind: which divergence. DistillSpec finds the best one by task and decoding strategy; ``forward_kl``, the one
            it starts from, is a safe first choice.
        beta: the teacher's share in the mixture, in (0, 1); read by ``jsd`` only. 0.5, the symmetric case.
        temperature: T, a number above 0 or a schedule; 1 as in the papers.
        teacher_signal: ``logits`` for a teacher that is read from a cache, which holds no head.
        chunk: how many tokens' logits exist at a time; as many as make 4 million logits by default. Changes neither
            value nor gradient, beyond rounding.

    Raises:
        ValueError: an unknown ``kind``, a ``beta`` outside (0, 1), a ``temperature`` not above 0, a ``chunk`` below 1;
            different vocabularies; mask, weight or signals that do not fit the labels.
        KeyError: the batch has no ``labels``.

    **Paper**: Zhou et al., DistillSpec, 2023 (arXiv 2310.08461); Agarwal et al., GKD, 2023 (arXiv 2306.13649),
    section 2; Wen et al., 2023 (arXiv 2307.15190) (``tvd``).
    **Deviation**: the papers average within each sequence or over the batch's; here every labelled token weighs the
    same. The factors T^2 and T keep the gradient's size when T changes.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.hidden", "student.head", "teacher.hidden", "teacher.head"})
    signal: ClassVar[str] = "hidden"

    def __init__(
        self,
        *,
        kind: Literal["forward_kl", "reverse_kl", "jsd", "tvd"] = "forward_kl",
        beta: float = 0.5,
        temperature: Scheduled = 1.0,
        teacher_signal: Literal["hidden", "logits"] = "hidden",
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        if kind not in DIVERGENCES:
            raise ValueError(f"kind={kind!r} is no divergence known here: use one of {', '.join(DIVERGENCES)}")
        if not 0.0 < beta < 1.0:
            raise ValueError(
                f"beta={beta} is not in (0, 1): at both ends jsd is 0 everywhere; use kind forward_kl or reverse_kl"
            )
        check_temperature(temperature)
        check_chunk(chunk)
        self.kind, self.beta, self.temperature, self.chunk = kind, beta, temperature, chunk
        self.teacher_signal: Source = teacher_signal
        if teacher_signal == "logits":
            # read from the instance when the loss is bound; what the class says holds for the roles in any case
            self.needs = frozenset({"student.hidden", "student.head", "teacher.logits"})  # type: ignore[misc]

    def count(self, batch: Batch) -> Tensor | None:
        return count_labels(batch)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        temperature, tokens = self.now(self.temperature), Tokens(batch)
        ours, theirs = tokens.rows(student, "draft"), tokens.rows(teacher, "target", self.teacher_signal)
        check_same_vocabulary(ours, theirs, "target")
        fused = fused_divergence(self.kind, self.beta, temperature, ours, theirs)
        total = tokens.total(self._terms(temperature), ours, theirs, chunk=self.chunk, fused=fused)
        factor = temperature if self.kind == "tvd" else temperature**2
        return Total(total.sum * factor, total.count)

    def _terms(self, temperature: float | Tensor) -> Any:
        beta = {"beta": self.beta} if self.kind == "jsd" else {}
        return partial(DIVERGENCES[self.kind], temperature=temperature, **beta)
