"""Falcon's coupled sequential glancing: where the draft was wrong, some rows are shown what they should have said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdcore.errors import RunError
from kdcore.losses.base import Loss, Total
from kdcore.losses.functional import cross_entropy, kl
from kdcore.schedules import Scheduled
from kdcore.signals import IGNORE, Batch, Signals
from kdcore_specdec.alignment import earlier
from kdcore_specdec.functional import Rows, token_terms
from kdcore_specdec.losses.ahead import ahead, feature_total, target_at
from kdcore_specdec.losses.tokens import Tokens, check_chunk
from kdcore_specdec.models.falcon import Falcon as FalconDraft
from kdcore_specdec.models.feature import row_positions


class Falcon(Loss):
    """``SmoothL1(h, f) + token_weight (soft KL(p || q) + (1 - soft) CE(q, argmax p))`` of a second, glancing pass.

    The draft's first pass only tells how many tokens it gets wrong, W in a row of the batch. About ``ratio * W`` of its
    inputs, at the starts of blocks chosen at random, are then replaced by the target's hidden states and tokens that
    they were to predict; the rest of the block sees them, and so learns how its own tokens depend on them. h and q are
    the hidden states and distributions of that second pass, f and p the target's.

    **Shape**: ``student.hidden`` (N, T, D), ``student.head`` (V', D), ``student.tokens`` (V',), ``student.predicts``
    (N, T); ``teacher.hidden`` (N, T, D) and ``teacher.head`` (V, D); ``batch["labels"]`` (N, T).

    **Reduction**: three totals, ``feature``, ``soft`` and ``hard``; the ``count`` of each is the number of labelled
    tokens with a row k tokens before. Elements of a feature are averaged.

    Args:
        ratio: share of the wrong tokens that is shown. The paper lowers it over the training, in its authors' code
            from 0.45 to 0.1: ``{use: linear, start: 0.45, end: 0.1}``. 0.3 by default.
        token_weight: 0.1, as in EAGLE and in the authors' code.
        soft: share of the soft targets, 0.9 in the authors' code.
        chunk: how many tokens' logits exist at a time; as many as make 4 million logits by default. Changes neither
            value nor gradient, beyond rounding.

    Raises:
        ValueError: a ``ratio`` or ``soft`` outside [0, 1], a negative ``token_weight``, a ``chunk`` below 1, mask or
            weight that do not fit the labels.
        KeyError: the batch has no ``labels``.
        RunError: the draft is no Falcon.

    **Paper**: Gao et al., Falcon, 2024 (arXiv 2412.12639), section on coupled sequential glancing distillation; weights
    and the choice of rows as in the authors' published training.
    **Deviation**: the divergence is at temperature 1, where their code mixes 1 and 0.95; the hard label is the target's
    likeliest token, where their code draws one; rows are counted per row of the batch, not per document.
    """

    needs: ClassVar[frozenset[str]] = frozenset(
        {
            "student.hidden",
            "student.head",
            "student.tokens",
            "student.predicts",
            "teacher.hidden",
            "teacher.head",
        }
    )
    signal: ClassVar[str] = "hidden"

    def __init__(
        self, *, ratio: Scheduled = 0.3, token_weight: float = 0.1, soft: float = 0.9, chunk: int | None = None
    ) -> None:
        super().__init__()
        if not callable(ratio) and not 0.0 <= ratio <= 1.0:
            raise ValueError(f"ratio={ratio} is no share: give 0 to 1, or a schedule")
        if not (token_weight >= 0.0 and 0.0 <= soft <= 1.0):
            raise ValueError(f"token_weight={token_weight} must not be negative, and soft={soft} be from 0 to 1")
        check_chunk(chunk)
        self.ratio, self.token_weight, self.soft, self.chunk = ratio, token_weight, soft, chunk
        self._draft: tuple[FalconDraft, ...] = ()  # a tuple: the draft is no part of its loss

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, Any], models: Callable[[str], nn.Module]
    ) -> None:
        draft = models("student")
        if not isinstance(draft, FalconDraft):
            raise RunError(
                f"specdec.falcon trains a draft that gives blocks of tokens: use `specdec.falcon` as its model, "
                f"which is a {type(draft).__name__} here"
            )
        self._draft = (draft,)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        (draft,) = self._draft
        here = ahead(batch, student["predicts"], 0)
        target = target_at(teacher, student["tokens"], 0)
        with torch.no_grad():
            likeliest, first = self._likeliest(target), self._likeliest(student)
        tokens = Tokens({**here, "labels": likeliest.masked_fill(here["labels"] == IGNORE, IGNORE)})
        wrong = ((first != likeliest) & tokens.selected).sum(1)
        shown = choose(row_positions(batch), tokens.selected, wrong, self.now(self.ratio), draft.block)
        # through the draft itself, as a loss gets signals of one pass only
        second = draft({**batch, "glance": shown}, teacher, logits=False)
        ours, theirs = tokens.rows(second, "draft"), tokens.rows(target, "target")
        soft = tokens.total(kl, ours, theirs, chunk=self.chunk)
        hard = tokens.total(cross_entropy, ours, Rows(tokens.labels), chunk=self.chunk)
        return {
            "feature": feature_total(second["hidden"], teacher["hidden"], tokens, here),
            "soft": Total(soft.sum * (self.token_weight * self.soft), soft.count),
            "hard": Total(hard.sum * (self.token_weight * (1.0 - self.soft)), hard.count),
        }

    def _likeliest(self, signals: Signals) -> Tensor:
        """The likeliest token at each position, int64 (N, T), as the draft numbers them."""
        hidden = signals["hidden"]
        found = token_terms(
            lambda logits: logits.argmax(-1), Rows(hidden.flatten(0, 1), signals["head"]), chunk=self.chunk
        )
        return found.view(hidden.shape[:2])


def choose(positions: Tensor, selected: Tensor, wrong: Tensor, ratio: float | Tensor, block: int) -> Tensor:
    """Which inputs are replaced, bool (N, T): the first 1 to ``block - 1`` rows of blocks drawn at random.

    As many blocks as make ``ratio * wrong`` rows on average; never a row without anything to predict.

    Args:
        positions: int64 (N, T), of each row in its document; -1 for the first, which has no feature.
        selected: bool (N, T), the tokens that a loss is wanted for.
        wrong: int64 (N,), how many of these the draft gets wrong.
        ratio: share of them that is shown.
        block: rows in a block.
    """
    free = earlier(selected, block - 1) & (positions >= 0)
    offset = positions.clamp(min=0) % block
    starts = free & (offset == 0)
    number = (wrong * ratio / (block / 2)).floor().unsqueeze(1)
    draw = torch.rand(positions.shape, device=positions.device).masked_fill(~starts, 2.0)
    drawn = starts & (draw.argsort(1).argsort(1) < number)
    length = torch.randint(1, block, positions.shape, device=positions.device)
    start = (torch.arange(positions.shape[1], device=positions.device) - offset).clamp(min=0)
    return free & drawn.gather(1, start) & (offset < length.gather(1, start))
