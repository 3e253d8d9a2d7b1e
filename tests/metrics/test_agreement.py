"""Agreement of two nets, right or wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdcore.metrics.agreement import Agreement


def value(student: Tensor, teacher: Tensor) -> float:
    metric = Agreement()
    metric.update(student, teacher)
    return float(metric.compute())


def test_it_is_accuracy_against_the_teachers_answers(logits: Tensor, teacher: Tensor):
    sklearn = pytest.importorskip("sklearn.metrics")
    truth = sklearn.accuracy_score(teacher.argmax(-1).numpy(), logits.argmax(-1).numpy())
    assert 0.4 < truth < 0.95
    assert value(logits, teacher) == pytest.approx(truth, rel=1e-6)


def test_it_is_one_between_a_net_and_itself_and_zero_between_opposites(logits: Tensor):
    assert value(logits, 5 * logits + 1) == 1.0
    assert value(logits, -logits) == 0.0


def test_it_is_symmetric(logits: Tensor, teacher: Tensor):
    assert value(logits, teacher) == value(teacher, logits)


def test_it_counts_positions():
    answers = torch.eye(3)[torch.tensor([[0, 1], [2, 2]])]
    assert value(answers, torch.eye(3)[torch.tensor([[0, 2], [2, 1]])]) == 0.5


@pytest.mark.parametrize("shape", [(200, 5), (100, 6), (1, 6)])
def test_other_positions_or_classes_are_refused(logits: Tensor, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"student's logits have shape \(200, 6\), .* agreement compares"):
        value(logits, torch.zeros(shape))
