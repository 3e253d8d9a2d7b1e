"""FSPAD's partial alignment: one half of the draft's output is the target's feature, the other speaks for the token."""

from __future__ import annotations

from typing import Any, ClassVar

from kdcore.losses.base import Loss, Total
from kdcore.losses.functional import kl
from kdcore.signals import Batch, Signals
from kdcore_specdec.losses.ahead import ahead, feature_total, target_at
from kdcore_specdec.losses.tokens import Tokens, check_chunk


class FSPAD(Loss):
    """``SmoothL1(feature, f) + token_weight KL(p || q)``, each a mean over the labelled tokens.

    f is the target's final hidden state, p its distribution within the draft's vocabulary; ``feature`` and the hidden
    state that gives q are two halves of the draft's output, so that neither has to serve both ends.

    **Shape**: ``student.feature`` and ``student.hidden`` (N, T, D), ``student.head`` (V', D), ``student.tokens`` (V',),
    ``student.predicts`` (N, T); ``teacher.hidden`` (N, T, D) and ``teacher.head`` (V, D); ``batch["labels"]`` (N, T).

    **Reduction**: two totals, ``feature`` and ``token``; the ``count`` of both is the number of labelled tokens with a
    hidden state before them. Elements of a feature are averaged.

    Args:
        token_weight: 0.1, as in EAGLE, whose framework this is.
        chunk: how many tokens' logits exist at a time; as many as make 4 million logits by default. Changes neither
            value nor gradient, beyond rounding.

    Raises:
        ValueError: a ``token_weight`` or ``chunk`` that is none, mask or weight that do not fit the labels.
        KeyError: the batch has no ``labels``.

    **Paper**: Gui et al., Boosting Lossless Speculative Decoding via Feature Sampling and Partial Alignment
    Distillation, 2024 (arXiv 2408.15562), weights as in the authors' published training. Their cross-entropy with the
    target's distribution differs by the target's entropy, which has no gradient at the draft.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {
            "student.hidden",
            "student.feature",
            "student.head",
            "student.tokens",
            "student.predicts",
            "teacher.hidden",
            "teacher.head",
        }
    )
    signal: ClassVar[str] = "hidden"

    def __init__(self, *, token_weight: float = 0.1, chunk: int | None = None) -> None:
        super().__init__()
        if not token_weight >= 0.0:
            raise ValueError(
                f"token_weight={token_weight} is negative: it is what the tokens count beside the features"
            )
        check_chunk(chunk)
        self.token_weight, self.chunk = token_weight, chunk

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        here = ahead(batch, student["predicts"], 0)
        tokens = Tokens(here)
        theirs = tokens.rows(target_at(teacher, student["tokens"], 0), "target")
        token = tokens.total(kl, tokens.rows(student, "draft"), theirs, chunk=self.chunk)
        return {
            "feature": feature_total(student["feature"], teacher["hidden"], tokens, here),
            "token": Total(token.sum * self.token_weight, token.count),
        }
