"""Expected calibration error against torchmetrics, a loop over bins, and nets of known calibration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from kdcore.metrics.calibration import Calibration


def value(preds: Tensor, target: Tensor, **settings: int) -> float:
    metric = Calibration(**settings)
    metric.update(preds, target)
    return float(metric.compute())


def by_definition(preds: Tensor, target: Tensor, bins: int) -> float:
    """Guo et al., eq. 3, bin by bin."""
    kept = target != -100
    confidence, guess = preds[kept].double().softmax(-1).max(-1)
    right = (guess == target[kept]).double()
    total = 0.0
    for low in range(bins):
        inside = (confidence > low / bins) & (confidence <= (low + 1) / bins)
        if inside.any():
            total += float(inside.double().mean() * (right[inside].mean() - confidence[inside].mean()).abs())
    return total


@pytest.mark.parametrize("bins", [1, 5, 15, 100])
def test_it_is_the_definition(logits: Tensor, labels: Tensor, bins: int):
    truth = by_definition(logits, labels, bins)
    assert truth > 0.05
    assert value(logits, labels, bins=bins) == pytest.approx(truth, rel=1e-5)


def test_it_is_torchmetrics(logits: Tensor, labels: Tensor):
    truth = multiclass_calibration_error(logits, labels, num_classes=6, n_bins=15, norm="l1", ignore_index=-100)
    assert value(logits, labels) == pytest.approx(float(truth), rel=1e-5)


def test_a_net_that_is_always_sure_is_off_by_its_errors():
    sure = 1e4 * torch.eye(4)[torch.tensor([0, 1, 2, 3, 0])]
    assert value(sure, torch.tensor([0, 1, 2, 3, 0])) == 0.0
    assert value(sure, torch.tensor([0, 1, 2, 0, 1])) == pytest.approx(0.4)
    assert value(sure, torch.tensor([1, 2, 3, 0, 1])) == 1.0


def test_a_net_that_knows_how_sure_it_may_be_is_at_zero():
    # 3/4 sure and right three times in four
    logits = torch.tensor([[3.0, 1.0]]).log().repeat(4, 1)
    assert value(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.0, abs=1e-7)
    assert value(logits, torch.tensor([0, 0, 0, 0])) == pytest.approx(0.25)


def test_errors_in_one_bin_cancel_and_in_different_bins_do_not():
    overconfident, underconfident = torch.tensor([[9.0, 1.0]]).log(), torch.tensor([[6.0, 4.0]]).log()
    preds, target = torch.cat([overconfident, underconfident]), torch.tensor([1, 0])
    assert value(preds, target, bins=1) == pytest.approx(abs((0 - 0.9) + (1 - 0.6)) / 2)
    assert value(preds, target, bins=10) == pytest.approx((0.9 + 0.4) / 2)


def test_the_sum_is_exact_in_any_order(logits: Tensor, labels: Tensor):
    order = torch.randperm(200, generator=torch.Generator().manual_seed(9))
    here, there = Calibration(), Calibration()
    here.update(logits, labels)
    for part in order.split(13):
        there.update(logits[part], labels[part])
    assert torch.equal(here.gaps, there.gaps)


def test_a_large_set_loses_no_digits():
    # ten million gaps of 0.3: added up one by one in float32 the sum would be wrong in the second digit
    metric = Calibration()
    logits = torch.tensor([[0.7, 0.3]]).log().repeat(100_000, 1)
    metric.update(logits, torch.zeros(100_000, dtype=torch.long))
    metric.gaps, metric.total = metric.gaps * 100, metric.total * 100
    assert float(metric.compute()) == pytest.approx(0.3, rel=1e-6)


def test_nan_is_the_worst_and_an_ignored_nan_is_nothing(logits: Tensor, labels: Tensor):
    ignored = logits.clone()
    ignored[labels == -100] = math.nan
    assert value(ignored, labels) == value(logits, labels)
    assert value(torch.full((3, 6), math.nan), torch.zeros(3, dtype=torch.long)) == 1.0


@pytest.mark.parametrize("bins", [0, -3])
def test_no_bins_are_refused(bins: int):
    with pytest.raises(ValueError, match=f"bins={bins} is below 1"):
        Calibration(bins=bins)


def test_labels_that_do_not_fit_are_refused(logits: Tensor):
    with pytest.raises(ValueError, match=r"labels have shape \(3,\).* take \(200,\)"):
        value(logits, torch.zeros(3, dtype=torch.long))


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    # 0.5 lies in (0, 0.5], 0.6 in (0.5, 1]: apart their gaps add up, together they would cancel
    preds, target = torch.tensor([[1.0, 1.0], [6.0, 4.0]]).log(), torch.tensor([0, 1])
    assert value(preds, target, bins=2) == pytest.approx((0.5 + 0.6) / 2)
