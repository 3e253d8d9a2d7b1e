from __future__ import annotations

import pytest
import torch
from torchmetrics.functional import auroc, average_precision

from kdcore_graph.metrics.curves import AUROC, AveragePrecision, RecallAtPrecision


def filled(metric: AUROC | AveragePrecision | RecallAtPrecision, logits: torch.Tensor, labels: torch.Tensor) -> float:
    half = len(labels) // 2
    metric.update(logits[:half], labels[:half])
    metric.update(logits[half:], labels[half:])
    return float(metric.compute())


def two(scores: list[float]) -> torch.Tensor:
    return torch.stack([torch.zeros(len(scores)), torch.tensor(scores)], 1)


LABELS = torch.tensor([1, 0, 1, 0, 0])
SCORES = two([4.0, 3.0, 2.0, 1.0, 0.0])


def test_by_hand() -> None:
    # in order: hit, miss, hit, miss, miss
    assert filled(AveragePrecision(), SCORES, LABELS) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert filled(AUROC(), SCORES, LABELS) == pytest.approx(5 / 6)
    assert filled(RecallAtPrecision(precision=0.9), SCORES, LABELS) == pytest.approx(0.5)
    assert filled(RecallAtPrecision(precision=0.6), SCORES, LABELS) == pytest.approx(1.0)


def test_no_threshold_is_precise_enough() -> None:
    assert filled(RecallAtPrecision(precision=0.9), -SCORES, LABELS) == 0


def test_ties_count_half() -> None:
    assert filled(AUROC(), two([1.0, 1.0, 1.0, 1.0, 1.0]), LABELS) == pytest.approx(0.5)


@pytest.mark.parametrize("classes", [2, 4])
def test_they_are_torchmetrics(classes: int) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(101, classes).round(decimals=1), torch.randint(classes, (101,))
    if classes == 2:
        score = logits.softmax(1)[:, 1]
        wanted = average_precision(score, labels, "binary"), auroc(score, labels, "binary")
    else:
        score = logits.softmax(1)
        wanted = (
            average_precision(score, labels, "multiclass", num_classes=4),
            auroc(score, labels, "multiclass", num_classes=4),
        )
    assert filled(AveragePrecision(), logits, labels) == pytest.approx(float(wanted[0]), abs=1e-5)
    assert filled(AUROC(), logits, labels) == pytest.approx(float(wanted[1]), abs=1e-5)


def test_unlabelled_and_absent_classes_do_not_count() -> None:
    logits = torch.cat([SCORES, two([9.0])])
    labels = torch.cat([LABELS, torch.tensor([-100])])
    assert filled(AUROC(), logits, labels) == pytest.approx(5 / 6)
    three = torch.cat([SCORES, torch.full((5, 1), -9.0)], 1)
    assert filled(AUROC(), three, LABELS) == pytest.approx(5 / 6, abs=1e-3)
    assert torch.isnan(torch.tensor(filled(AUROC(), SCORES, torch.zeros(5, dtype=torch.int64))))


def test_a_precision_of_nought_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision=0.0 is not in \(0, 1\]"):
        RecallAtPrecision(precision=0.0)
