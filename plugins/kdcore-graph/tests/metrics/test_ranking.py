from __future__ import annotations

import math

import pytest
import torch

from kdcore_graph.metrics.ranking import MRR, Hits

POSITIVE, NEGATIVE = [3.0, 1.0, -1.0], [2.0, 0.0, 0.0, -2.0]


def filled(metric: Hits | MRR, positive: list[float], negative: list[float]) -> float:
    for scores, label in ((positive, 1), (negative, 0)):
        if scores:
            metric.update(torch.tensor([[0.0, s] for s in scores]), torch.full((len(scores),), label))
    return float(metric.compute())


@pytest.mark.parametrize(("k", "wanted"), [(1, 1 / 3), (2, 2 / 3), (3, 2 / 3), (4, 1.0), (5, 1.0)])
def test_hits_by_hand(k: int, wanted: float) -> None:
    assert filled(Hits(k=k), POSITIVE, NEGATIVE) == pytest.approx(wanted)


def test_a_tie_with_the_kth_is_no_hit() -> None:
    assert filled(Hits(k=1), [2.0], [2.0]) == 0


def test_mrr_by_hand() -> None:
    assert filled(MRR(), POSITIVE, NEGATIVE) == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)
    # two negatives tie: the middle of ranks 2 and 4
    assert filled(MRR(), [0.0], NEGATIVE) == pytest.approx(1 / 3)


def test_only_the_difference_counts() -> None:
    metric = Hits(k=1)
    metric.update(torch.tensor([[5.0, 6.0], [-5.0, -4.5]]), torch.tensor([1, 0]))
    assert float(metric.compute()) == 1


def test_nothing_to_rank_is_no_number() -> None:
    assert math.isnan(filled(Hits(k=5), [], NEGATIVE))
    assert math.isnan(filled(MRR(), [], NEGATIVE))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="k=0 is below 1"):
        Hits(k=0)
    with pytest.raises(ValueError, match=r"hits ranks by two classes, and the logits have the shape \(4, 3\)"):
        Hits().update(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
