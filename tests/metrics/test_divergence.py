"""The divergence between two nets, in nats."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional import kl_divergence

from kdcore.metrics.divergence import Divergence


def value(student: Tensor, teacher: Tensor) -> float:
    metric = Divergence()
    metric.update(student, teacher)
    return float(metric.compute())


def test_it_is_torchmetrics_with_the_teacher_first(logits: Tensor, teacher: Tensor):
    truth = kl_divergence(teacher.log_softmax(-1), logits.log_softmax(-1), log_prob=True)
    assert value(logits, teacher) == pytest.approx(float(truth), rel=1e-5)
    assert value(logits, teacher) != pytest.approx(value(teacher, logits), rel=1e-3)


def test_it_is_zero_where_the_student_says_what_the_teacher_says(logits: Tensor):
    assert value(logits, logits.clone()) == 0.0
    assert value(logits + 3.0, logits) == pytest.approx(0.0, abs=1e-6)


def test_it_is_measured_in_nats():
    assert value(torch.zeros(1, 2), torch.tensor([[0.0, -math.inf]])) == pytest.approx(math.log(2))


def test_it_is_a_mean_over_positions(logits: Tensor, teacher: Tensor):
    assert value(logits.repeat(3, 1), teacher.repeat(3, 1)) == pytest.approx(value(logits, teacher), rel=1e-6)


def test_other_classes_are_refused(logits: Tensor):
    with pytest.raises(ValueError, match=r"student's signal has shape \(200, 6\), the teacher's \(200, 5\)"):
        value(logits, torch.zeros(200, 5))
