from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from scipy import stats
from torch import Tensor

from kdcore.report.statistics import verdict


def scores(won: int, lost: int, both: int = 50) -> tuple[Tensor, Tensor]:
    """0/1 scores of which the student alone gets `won` and the baseline alone gets `lost` right."""
    student = torch.tensor([1] * won + [0] * lost + [1] * both)
    alone = torch.tensor([0] * won + [1] * lost + [1] * both)
    return student, alone


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ([0.03, 0.02, 0.04, 0.03, 0.025], "better"),
        ([-0.03, -0.02, -0.04, -0.03, -0.025], "worse"),
        ([0.03, -0.02, 0.01, -0.03, 0.005], "no difference"),
        ([0.03, 0.01], "no difference"),  # two seeds: one degree of freedom
    ],
)
def test_several_seeds_are_judged_by_a_paired_t_test(gains: list[float], word: str) -> None:
    found = verdict(gains, paired_scores=None)
    n, mean = len(gains), sum(gains) / len(gains)
    std = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (n - 1))
    p = 2 * float(stats.t.sf(abs(mean) / (std / math.sqrt(n)), n - 1))
    assert found.verdict == word
    assert found.gain == pytest.approx(mean)
    assert found.std == pytest.approx(std)
    assert found.p == pytest.approx(p)
    assert found.method == f"paired t-test over {n} seeds"


@pytest.mark.parametrize(
    ("gains", "p", "word"),
    [
        ([0.0, 0.0, 0.0], 1.0, "no difference"),
        ([0.01, 0.01], 0.5, "undecided"),
        ([0.1 + 0.2, 0.3, 0.3], 0.25, "undecided"),  # equal but for rounding
        ([0.01] * 6, 0.03125, "better"),
        ([-0.01] * 6, 0.03125, "worse"),
    ],
)
def test_equal_gains_do_not_make_a_p_of_zero(gains: list[float], p: float, word: str) -> None:
    found = verdict(gains, paired_scores=None)
    assert (found.p, found.verdict) == (p, word)


@pytest.mark.parametrize(
    ("won", "lost", "word"),
    [(20, 4, "better"), (4, 20, "worse"), (6, 4, "no difference"), (0, 0, "no difference")],
)
def test_one_seed_with_right_or_wrong_samples_is_judged_by_mcnemar(won: int, lost: int, word: str) -> None:
    n = won + lost
    found = verdict([(won - lost) / (n + 50)], paired_scores=scores(won, lost))
    tail = sum(math.comb(n, k) for k in range(max(won, lost), n + 1)) / 2**n
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert found.verdict == word
    assert found.std is None
    assert found.method.startswith(f"exact McNemar test over {n + 50} samples ({won} won, {lost} lost)")


def test_one_seed_says_that_it_speaks_of_two_nets_only() -> None:
    for pair in (scores(20, 4), (torch.rand(30) + 0.2, torch.rand(30))):
        found = verdict([0.1], paired_scores=pair)
        assert "these two trained nets only, not of the method" in found.method
        assert "--seeds" in found.method


def test_one_seed_with_other_scores_is_judged_by_a_t_test_over_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    alone = torch.rand(40, generator=generator)
    student = alone + 0.05 + 0.02 * torch.randn(40, generator=generator)
    found = verdict([0.05], paired_scores=(student, alone))
    assert found.verdict == "better"
    assert found.p == pytest.approx(float(stats.ttest_rel(student.double(), alone.double()).pvalue))
    assert found.method.startswith("paired t-test over 40 samples")


@pytest.mark.parametrize(("shift", "p", "word"), [(0.0, 1.0, "no difference"), (0.25, 2 * 0.5**8, "better")])
def test_samples_that_all_differ_equally_are_judged_by_their_sign(shift: float, p: float, word: str) -> None:
    alone = torch.arange(8.0) / 8
    found = verdict([shift], paired_scores=(alone + shift, alone))
    assert (found.p, found.verdict) == (p, word)


def test_samples_that_contradict_the_metric_decide_nothing() -> None:
    found = verdict([-0.02], paired_scores=scores(20, 4))
    assert found.verdict == "undecided"
    assert "opposite directions" in found.method


@pytest.mark.parametrize(
    ("gains", "pair", "why"),
    [
        ([0.05], None, "one seed and no per-sample scores"),
        ([math.nan], None, "not a number"),
        ([0.1, math.inf, 0.1], None, "not a number"),
        ([0.1], (torch.tensor([1.0]), torch.tensor([0.0])), "too few"),
        ([0.1], (torch.tensor([1.0, math.nan]), torch.tensor([0.0, 1.0])), "not numbers"),
    ],
)
def test_what_cannot_be_tested_is_undecided(gains: list[float], pair: tuple[Tensor, Tensor] | None, why: str) -> None:
    found = verdict(gains, paired_scores=pair)
    assert (found.p, found.verdict) == (None, "undecided")
    assert why in found.method


def test_several_seeds_do_not_look_at_samples() -> None:
    assert verdict([0.01, -0.01], paired_scores=scores(40, 0)).verdict == "no difference"


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="3 scores of the student, 4 of the student alone"):
        verdict([0.1], paired_scores=(torch.ones(3), torch.ones(4)))
    with pytest.raises(ValueError, match="at least one seed"):
        verdict([], paired_scores=None)


def ratio(shares: Tensor) -> Tensor:
    """As a word error rate's complement: all rights over all words."""
    return shares[..., 0] / shares[..., 1]


def exact(student: Tensor, alone: Tensor) -> float:
    """Of all ways to exchange answers, the share whose difference is as large."""
    found = abs(float(ratio(student.sum(0)) - ratio(alone.sum(0))))
    large = []
    for swaps in product([False, True], repeat=len(student)):
        choice = torch.tensor(swaps)[:, None]
        first, second = torch.where(choice, alone, student).sum(0), torch.where(choice, student, alone).sum(0)
        large.append(abs(float(ratio(first) - ratio(second))) >= found - 1e-9)
    return sum(large) / len(large)


@pytest.mark.parametrize("seed", range(4))
def test_a_metric_of_sums_is_judged_by_exchanging_answers(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, 20, (9, 1), generator=generator).float()
    student, alone = (
        torch.cat([(words * torch.rand(9, 1, generator=generator) ** power).floor(), words], 1) for power in (0.5, 1.2)
    )
    gain = float(ratio(student.sum(0)) - ratio(alone.sum(0)))
    found = verdict([gain], paired_scores=(student, alone), value_of=ratio)
    assert found.p == pytest.approx(exact(student, alone), abs=0.035)  # three standard errors of 1999 draws
    assert found.method.startswith("paired randomisation test over 9 samples, 1999 times; it speaks of these two")
    assert found == verdict([gain], paired_scores=(student, alone), value_of=ratio)  # the same each time


def test_what_single_samples_hide_is_seen() -> None:
    """Long samples decide the ratio, short ones the mean of ratios: a t-test over samples would see a loss."""
    words = torch.tensor([100.0] * 10 + [1.0] * 40)[:, None]
    student = torch.cat([torch.where(words > 1, 60.0, 0.0), words], 1)
    alone = torch.cat([torch.where(words > 1, 40.0, 1.0), words], 1)
    assert stats.ttest_rel(ratio(student), ratio(alone)).statistic < 0
    found = verdict([160 / 1040], paired_scores=(student, alone), value_of=ratio)
    assert found.verdict == "better"
    assert found.p is not None
    assert found.p < 0.02
    turned = verdict([-160 / 1040], paired_scores=(alone, student), value_of=ratio)
    assert (turned.verdict, turned.p) == ("worse", found.p)


def test_shares_that_contradict_the_metric_decide_nothing() -> None:
    student, alone = torch.ones(40, 2), torch.ones(40, 2)
    student[:, 0] = 4.0
    assert verdict([0.5], paired_scores=(student, alone), value_of=ratio).verdict == "better"
    found = verdict([-0.01], paired_scores=(student, alone), value_of=ratio)
    assert found.verdict == "undecided"
    assert "opposite directions" in found.method


def test_equal_nets_are_no_different() -> None:
    shares = torch.tensor([[3.0, 4.0], [2.0, 9.0], [1.0, 1.0]])
    found = verdict([0.0], paired_scores=(shares, shares), value_of=ratio)
    assert (found.verdict, found.p) == ("no difference", 1.0)


def test_a_ratio_of_nothing_is_undecided() -> None:
    nothing = torch.zeros(5, 2)
    found = verdict([0.0], paired_scores=(nothing, nothing), value_of=ratio)
    assert (found.verdict, found.p) == ("undecided", None)
    assert found.method == "no test: one seed, and the samples are too few or their metric is not a number"


def test_shares_must_pair_up() -> None:
    with pytest.raises(ValueError, match="5 samples of the student, 4 of the student alone: they must pair up"):
        verdict([0.1], paired_scores=(torch.ones(5, 2), torch.ones(4, 2)), value_of=ratio)


def test_several_seeds_need_no_shares() -> None:
    found = verdict([0.03, 0.02, 0.04], paired_scores=(torch.ones(5, 2), torch.ones(5, 2)), value_of=ratio)
    assert found.method == "paired t-test over 3 seeds"
