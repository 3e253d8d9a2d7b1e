"""Accuracy against scikit-learn and torchmetrics, its scores, its refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from kdcore.metrics.accuracy import Accuracy


def value(metric: Accuracy, preds: Tensor, target: Tensor) -> float:
    metric.update(preds, target)
    return float(metric.compute())


def test_it_is_scikit_learns(logits: Tensor, labels: Tensor):
    sklearn = pytest.importorskip("sklearn.metrics")
    kept = labels != -100
    truth = sklearn.accuracy_score(labels[kept].numpy(), logits[kept].argmax(-1).numpy())
    assert 0.3 < truth < 0.8
    assert value(Accuracy(), logits, labels) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_it_is_torchmetrics(logits: Tensor, labels: Tensor, top_k: int):
    truth = multiclass_accuracy(logits, labels, num_classes=6, average="micro", top_k=top_k, ignore_index=-100)
    assert value(Accuracy(top_k=top_k), logits, labels) == pytest.approx(float(truth), rel=1e-6)


def test_more_guesses_are_right_more_often(logits: Tensor, labels: Tensor):
    values = [value(Accuracy(top_k=k), logits, labels) for k in range(1, 7)]
    assert values == sorted(values)
    assert values[-1] == 1.0


def test_it_counts_what_is_right():
    logits = torch.eye(4)
    assert value(Accuracy(), logits, torch.tensor([0, 1, 0, -100])) == pytest.approx(2 / 3)


def test_counts_beyond_float32_stay_exact():
    metric = Accuracy()
    metric.correct, metric.total = torch.tensor(2**25), torch.tensor(2**25)
    metric.update(torch.eye(3), torch.tensor([0, 1, 1]))
    assert (int(metric.correct), int(metric.total)) == (2**25 + 2, 2**25 + 3)


@pytest.mark.parametrize("top_k", [1, 2])
def test_scores_are_right_or_wrong_for_each_sample(logits: Tensor, labels: Tensor, top_k: int):
    metric = Accuracy(top_k=top_k)
    scores = metric.scores(logits, labels)
    assert scores.shape == (200,)
    assert scores.dtype == torch.float32
    assert torch.equal(scores.isnan(), labels == -100)
    assert set(scores[labels != -100].tolist()) == {0.0, 1.0}
    assert scores.nanmean().item() == pytest.approx(value(metric, logits, labels), rel=1e-6)


def test_scores_of_many_positions_are_each_samples_share():
    logits = torch.eye(3)[torch.tensor([[0, 1, 2, 0], [1, 1, 1, 1], [2, 2, 2, 2]])]  # (3, 4, 3)
    labels = torch.tensor([[0, 1, 0, -100], [1, 1, 1, 1], [-100] * 4])
    scores = Accuracy().scores(logits, labels)
    assert scores[0].item() == pytest.approx(2 / 3)
    assert scores[1].item() == 1.0
    assert math.isnan(scores[2].item())
    across = Accuracy(class_axis=1).scores(logits.movedim(-1, 1), labels)
    assert torch.equal(across[:2], scores[:2])


def test_scores_keep_no_state(logits: Tensor, labels: Tensor):
    metric = Accuracy()
    metric.scores(logits, labels)
    assert int(metric.total) == 0


@pytest.mark.parametrize("top_k", [0, -1])
def test_no_guess_is_refused(top_k: int):
    with pytest.raises(ValueError, match=f"top_k={top_k} is below 1"):
        Accuracy(top_k=top_k)


def test_more_guesses_than_classes_are_refused(logits: Tensor, labels: Tensor):
    with pytest.raises(ValueError, match=r"top_k=7, but the logits of shape \(200, 6\) hold 6 classes"):
        Accuracy(top_k=7).update(logits, labels)


@pytest.mark.parametrize("shape", [(200, 1), (6,), (200, 6)])
def test_labels_that_do_not_fit_are_refused(logits: Tensor, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"labels have shape .* classes at axis -1 take \(200,\)"):
        Accuracy().update(logits, torch.zeros(shape, dtype=torch.long))
