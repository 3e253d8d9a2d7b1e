from __future__ import annotations

import math

import pytest
import torch
from naive import kl

from kdcore_graph.losses.llp import LLPDistribution, LLPRank


def contexts(seed: int, anchors: int = 3, size: int = 4) -> dict[str, torch.Tensor]:
    return {"contexts": torch.randn(anchors, size, generator=torch.Generator().manual_seed(seed))}


def naive_rank(student: torch.Tensor, teacher: torch.Tensor, margin: float) -> float:
    def probability(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        for i in range(len(ours)):
            for j in range(i + 1, len(ours)):
                apart = probability(theirs[i]) - probability(theirs[j])
                if abs(apart) > margin:
                    sign = 1 if apart > 0 else -1
                    total += max(0.0, margin - sign * (probability(ours[i]) - probability(ours[j])))
    return total


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3])
def test_rank_is_the_slow_formula(margin: float) -> None:
    student, teacher = contexts(0), contexts(1)
    found = LLPRank(margin=margin)(student, teacher, {})
    assert float(found.sum) == pytest.approx(naive_rank(student["contexts"], teacher["contexts"], margin), rel=1e-5)
    probability = teacher["contexts"].sigmoid()
    apart = (probability.unsqueeze(1) - probability.unsqueeze(2)).abs() > margin
    assert int(found.count) == int(apart.sum()) // 2


def test_a_teacher_without_an_order_selects_nothing() -> None:
    found = LLPRank()(contexts(0), {"contexts": torch.zeros(3, 4)}, {})
    assert int(found.count) == 0
    assert float(found.sum) == 0


def test_the_teachers_own_order_costs_nothing() -> None:
    teacher = {"contexts": torch.tensor([[4.0, 1.0, -1.0, -4.0]])}
    assert float(LLPRank()(teacher, teacher, {}).sum) == 0
    turned = {"contexts": -teacher["contexts"]}
    assert float(LLPRank()(turned, teacher, {}).sum) > 1


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distribution_is_the_slow_formula(temperature: float) -> None:
    student, teacher = contexts(0), contexts(1)
    found = LLPDistribution(temperature=temperature)(student, teacher, {})
    s, t = student["contexts"].tolist(), teacher["contexts"].tolist()
    expected = sum(temperature**2 * kl(t[i], s[i], temperature) for i in range(3))
    assert float(found.sum) == pytest.approx(expected, rel=1e-5)
    assert int(found.count) == 3


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin=-0.1 is below 0"):
        LLPRank(margin=-0.1)
    with pytest.raises(ValueError, match=r"temperature=0.0 is not above 0"):
        LLPDistribution(temperature=0.0)
