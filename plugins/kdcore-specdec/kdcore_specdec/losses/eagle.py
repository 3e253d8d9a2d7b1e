"""The loss of EAGLE-3's training-time test."""

from __future__ import annotations

from typing import Any, ClassVar

from kdcore.losses.base import Loss, Total
from kdcore.losses.functional import kl
from kdcore.signals import Batch, Signals
from kdcore_specdec.losses.ahead import ahead, guess, target_at
from kdcore_specdec.losses.tokens import Tokens, check_chunk


class Eagle3(Loss):
    """``sum_j decay^j KL(p_{t+j} || q_{t,j})``: each step j = 0, 1, ... is a mean over the tokens that it is about.

    q_{t,j} is the draft's distribution at its step j from position t, p_{t+j} the target's of the same token, within
    the draft's vocabulary. The draft's steps read its own hidden states, as they will in decoding. With Medusa as the
    draft, step j is head j + 1: then the heads learn the target's distributions in place of the data's tokens.

    **Shape**: ``student.unrolled`` (N, J, T, D) and ``student.heads`` (J, V', D), ``student.tokens`` (V',),
    ``student.predicts`` (N, T); ``teacher.hidden`` (N, T, D) and ``teacher.head`` (V, D); ``batch["labels"]`` (N, T).

    **Reduction**: a total for each step, ``step0`` and so on, whose ``count`` is the number of labelled tokens it is
    about: those with a hidden state j + 1 tokens before, in their own document.

    Args:
        decay: what a step counts in comparison with the one before; 0.8 in the authors' code.
        chunk: how many tokens' logits exist at a time; as many as make 4 million logits by default. Changes neither
            value nor gradient, beyond rounding.

    Raises:
        ValueError: a ``decay`` not in (0, 1], a ``chunk`` below 1, mask or weight that do not fit the labels.
        KeyError: the batch has no ``labels``.

    **Paper**: Li et al., EAGLE-3, 2025 (arXiv 2503.01840), section 3.2. The paper's cross-entropy with the target's
    distribution differs by the target's entropy, which has no gradient at the draft.
    **Deviation**: tokens that the target likes best, but that are not in the draft's vocabulary, are not left out: the
    rest of the target's distribution is learnt there.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {
            "student.unrolled",
            "student.heads",
            "student.tokens",
            "student.predicts",
            "teacher.hidden",
            "teacher.head",
        }
    )
    signal: ClassVar[str] = "unrolled"

    def __init__(self, *, decay: float = 0.8, chunk: int | None = None) -> None:
        super().__init__()
        check_decay(decay)
        check_chunk(chunk)
        self.decay, self.chunk = decay, chunk

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        totals = {}
        for step in range(student["unrolled"].shape[1]):
            tokens = Tokens(ahead(batch, student["predicts"], step))
            ours = tokens.rows(guess(student, step), "draft")
            theirs = tokens.rows(target_at(teacher, student["tokens"], step), "target")
            total = tokens.total(kl, ours, theirs, chunk=self.chunk)
            totals[f"step{step}"] = Total(total.sum * self.decay**step, total.count)
        return totals


def check_decay(decay: float) -> None:
    """Refuse a decay that is none.

    Raises:
        ValueError: ``decay`` is not in (0, 1].
    """
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay={decay} is not in (0, 1]: each step counts so much in comparison with the one before")
