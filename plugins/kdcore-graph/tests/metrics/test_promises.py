"""What holds for every metric of this plugin, whichever it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from kdcore.testing import registered

METRICS = registered("graph", "metric")
N = 200
UNSEEN = torch.arange(N) % 3 == 0


def signals(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of two classes that are right more often than not, and labels; a tenth has none."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (N,), generator=generator)
    logits = torch.randn(N, 2, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 2)
    return logits, labels.masked_fill(torch.rand(N, generator=generator) < 0.1, -100)


def given(metric: Metric, logits: Tensor, labels: Tensor, at: slice = slice(None)) -> tuple[Tensor, ...]:
    """What this metric takes."""
    parts = (logits[at], labels[at])
    return (*parts, UNSEEN[: len(logits)][at]) if metric.takes == "preds_target_unseen" else parts


def value(metric: Metric, logits: Tensor, labels: Tensor) -> float:
    metric.update(*given(metric, logits, labels))
    return float(metric.compute())


@pytest.fixture(params=METRICS)
def metric(request: pytest.FixtureRequest) -> Metric:
    made: Metric = METRICS[request.param]()
    return made


def fresh(metric: Metric) -> Metric:
    return type(metric)()


def test_a_value_is_a_share(metric: Metric) -> None:
    assert 0 < value(metric, *signals()) < 1
    assert metric.higher_is_better


def test_batches_add_up_to_the_whole(metric: Metric) -> None:
    logits, labels = signals()
    for at in (slice(0, 7), slice(7, 8), slice(8, N)):
        metric.update(*given(metric, logits, labels, at))
    assert float(metric.compute()) == pytest.approx(value(fresh(metric), logits, labels), rel=1e-6)


def test_the_order_does_not_matter(metric: Metric) -> None:
    logits, labels = signals()
    backwards = fresh(metric)
    backwards.update(*(part.flip(0) for part in given(metric, logits, labels)))
    assert float(backwards.compute()) == pytest.approx(value(metric, logits, labels), rel=1e-6)


def test_ranks_add_up_to_the_whole(metric: Metric) -> None:
    logits, labels = signals()
    other = fresh(metric)
    metric.update(*given(metric, logits, labels, slice(0, 25)))
    other.update(*given(metric, logits, labels, slice(25, N)))
    metric.merge_state(other)
    assert float(metric.compute()) == pytest.approx(value(fresh(metric), logits, labels), rel=1e-6)


def test_what_has_no_label_changes_nothing(metric: Metric) -> None:
    logits, labels = signals()
    before = value(fresh(metric), logits, labels)
    turned = torch.where((labels == -100).unsqueeze(1), -9 * logits, logits)
    assert value(metric, turned, labels) == before


def test_reset_forgets(metric: Metric) -> None:
    metric.update(*given(metric, *signals(1)))
    metric.reset()
    assert value(metric, *signals()) == pytest.approx(value(fresh(metric), *signals()), rel=1e-6)


def test_nothing_labelled_is_no_number(metric: Metric) -> None:
    logits, labels = signals()
    assert torch.isnan(torch.tensor(value(metric, logits, torch.full_like(labels, -100))))


def test_half_precision_is_taken(metric: Metric) -> None:
    logits, labels = signals()
    narrow = logits.bfloat16()
    assert value(metric, narrow, labels) == pytest.approx(value(fresh(metric), narrow.float(), labels), rel=1e-6)


def test_the_best_answers_are_worth_one(metric: Metric) -> None:
    _, labels = signals()
    sure = 20.0 * torch.nn.functional.one_hot(labels.clamp(min=0), 2)
    assert value(metric, sure, labels) == pytest.approx(1.0)
