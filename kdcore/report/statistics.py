"""Is the gain more than chance? A paired test, and words for what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

LEVEL = 0.05
"""A gain counts as real when chance alone would make one as large in fewer than one of twenty repetitions."""

SWAPS, AT_ONCE = 1999, 250
"""How often chance is asked, and how many answers are in memory together."""

ONE_PAIR = "; it speaks of these two trained nets only, not of the method (use --seeds for that)"

Word = Literal["better", "no difference", "worse", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """What the evidence says about a student against the same student trained alone.

    Attributes:
        gain: mean over seeds, in the unit of the primary metric; more is better.
        std: standard deviation of the gain over seeds (n - 1); ``None`` with one.
        p: two-sided p-value; ``None`` where there is nothing to test.
        method: which test, on how much, and what it does not tell.
    """

    gain: float
    std: float | None
    p: float | None
    verdict: Word
    method: str


def verdict(
    gains: Sequence[float],
    *,
    paired_scores: tuple[Tensor, Tensor] | None,
    value_of: Callable[[Tensor], Tensor] | None = None,
) -> Verdict:
    """Tests the gains of several seeds, or with one seed the two nets sample by sample.

    Two seeds or more: a paired t-test over the seeds. One seed with per-sample scores: McNemar's exact test
    where all scores are 0 or 1 (McNemar, 1947: a binomial test on the samples that only one of the two got
    right), else a paired t-test over the samples. Where the metric is no mean over samples (an intersection over
    union, a word error rate), a paired randomisation test: how often is the metric's difference as large when chance
    decides, sample by sample, whose answer belongs to which net? (Yeh, More accurate tests for the statistical
    significance of result differences, COLING 2000.)

    Args:
        gains: per seed, the student's primary metric minus that of the student alone; more is better.
        paired_scores: of the student and of the student alone, one score per sample of the same split in the
            same order; more is better. Read with one seed only. With ``value_of``, each sample's share (N, ...).
        value_of: makes the metric from a sum of shares, (..., *share) -> (...); or what is close to it, where the
            metric itself cannot be had so (an average precision from scores that are rounded).

    Raises:
        ValueError: no gains, or scores of different numbers of samples.
    """
    if not gains:
        raise ValueError("a verdict needs the gain of at least one seed")
    values = np.asarray(gains, dtype=np.float64)
    gain = float(values.mean())
    if not np.isfinite(values).all():
        return Verdict(gain, None, None, "undecided", "no test: the metric of at least one seed is not a number")
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    if len(values) > 1:
        return Verdict(gain, std, *_over_seeds(values))
    if paired_scores is not None:
        if value_of is not None:
            return Verdict(gain, std, *_by_chance(gain, *paired_scores, value_of))
        return Verdict(gain, std, *_over_samples(gain, *paired_scores))
    return Verdict(gain, std, None, "undecided", "no test: one seed and no per-sample scores")


def _over_seeds(gains: np.ndarray) -> tuple[float, Word, str]:
    seeds = len(gains)
    if np.ptp(gains) > 1e-9 * np.abs(gains).max():
        p = float(stats.ttest_1samp(gains, 0.0).pvalue)
        return p, _word(gains.mean(), p), f"paired t-test over {seeds} seeds"
    # Equal gains have no spread for a t-test to judge by (it would say p = 0); what is left is their sign.
    if gains[0] == 0:
        return 1.0, "no difference", f"the gain is 0 with all {seeds} seeds"
    p = 2.0 * 0.5**seeds
    method = f"sign test over {seeds} seeds, because their gains are all equal"
    return p, _word(gains[0], p) if p < LEVEL else "undecided", method


def _over_samples(gain: float, student: Tensor, alone: Tensor) -> tuple[float | None, Word, str]:
    ours, theirs = (scores.detach().double().cpu().numpy().reshape(-1) for scores in (student, alone))
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} scores of the student, {len(theirs)} of the student alone: they must pair up")
    difference = ours - theirs
    samples = len(difference)
    if samples < 2 or not np.isfinite(difference).all():
        return None, "undecided", "no test: one seed, and the per-sample scores are too few or not numbers"
    if np.isin(np.concatenate([ours, theirs]), (0.0, 1.0)).all():
        won, lost = int((difference > 0).sum()), int((difference < 0).sum())
        p = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
        method = f"exact McNemar test over {samples} samples ({won} won, {lost} lost)"
    elif np.ptp(difference) == 0:
        p = 2.0 * 0.5**samples if difference[0] else 1.0
        method = f"sign test over {samples} samples, because all differ equally"
    else:
        p = float(stats.ttest_1samp(difference, 0.0).pvalue)
        method = f"paired t-test over {samples} samples"
    return _told(gain, float(difference.mean()), p, method)


def _by_chance(
    gain: float, student: Tensor, alone: Tensor, value_of: Callable[[Tensor], Tensor]
) -> tuple[float | None, Word, str]:
    shape, samples = student.shape[1:], len(student)
    ours, theirs = (shares.double().flatten(1).cpu() for shares in (student, alone))
    if len(theirs) != samples:
        raise ValueError(f"{samples} samples of the student, {len(theirs)} of the student alone: they must pair up")

    def difference(of_first: Tensor, of_second: Tensor) -> Tensor:
        first, second = (shares.reshape(*shares.shape[:-1], *shape) for shares in (of_first, of_second))
        return value_of(first) - value_of(second)

    found = difference(ours.sum(0), theirs.sum(0))
    if samples < 2 or not found.isfinite():
        return None, "undecided", "no test: one seed, and the samples are too few or their metric is not a number"
    first_alone, swap = ours.sum(0), theirs - ours
    total, generator, as_large = first_alone + theirs.sum(0), torch.Generator().manual_seed(0), 1
    for start in range(0, SWAPS, AT_ONCE):
        swapped = torch.randint(2, (min(AT_ONCE, SWAPS - start), samples), generator=generator).double()
        first = first_alone + swapped @ swap
        # a hair less: the same sums in another order are the same difference
        as_large += int((difference(first, total - first).abs() >= found.abs() - 1e-9).sum())
    p = as_large / (SWAPS + 1)
    return _told(gain, float(found), p, f"paired randomisation test over {samples} samples, {SWAPS} times")


def _told(gain: float, difference: float, p: float, method: str) -> tuple[float, Word, str]:
    """What one pair of nets says; nothing, where the samples point elsewhere than the metric that is reported."""
    word = _word(difference, p)
    if word != "no difference" and gain * difference < 0:
        return p, "undecided", f"{method}; the metric and the per-sample scores point in opposite directions"
    return p, word, method + ONE_PAIR


def _word(gain: float, p: float) -> Word:
    if p >= LEVEL:
        return "no difference"
    return "better" if gain > 0 else "worse"
