"""Which axis is the feature axis, and that only the angle counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdcore.losses.cosine import Cosine

from . import naive


def mean(loss: Cosine, student: Tensor, teacher: Tensor) -> float:
    total = loss({"logits": student}, {"logits": teacher}, {})
    value: float = (total.sum / total.count).item()
    return value


def maps() -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn(2, 3, 8, 4, 5, generator=torch.Generator().manual_seed(4))
    return student, teacher


def test_mean_over_positions(student: Tensor, teacher: Tensor):
    assert mean(Cosine(), student, teacher) == pytest.approx(
        naive.cosine_distance(student, teacher).mean().item(), rel=1e-6
    )


def test_lengths_do_not_count(student: Tensor, teacher: Tensor):
    assert mean(Cosine(), 100 * student, 0.01 * teacher) == pytest.approx(mean(Cosine(), student, teacher), rel=1e-5)


@pytest.mark.parametrize("axis", [1, -1])
def test_the_axis_may_be_said(axis: int):
    student, teacher = maps()
    truth = naive.cosine_distance(student, teacher, axis=axis).mean().item()
    assert mean(Cosine(axis=axis), student, teacher) == pytest.approx(truth, rel=1e-6)


def test_a_task_with_maps_knows_the_axis():
    student, teacher = maps()
    loss = Cosine()
    loss.class_axis = 1
    assert mean(loss, student, teacher) == mean(Cosine(axis=1), student, teacher)


def test_a_map_in_a_task_without_maps_is_ambiguous():
    student, teacher = maps()
    with pytest.raises(ValueError, match=r"shape \(3, 8, 4, 5\) are: say `axis: 1` for \(N, C, H, W\)"):
        mean(Cosine(), student, teacher)


def test_the_axis_wins_over_the_tasks(student: Tensor, teacher: Tensor):
    loss = Cosine(axis=-1)
    loss.class_axis = 1
    assert mean(loss, student, teacher) == mean(Cosine(), student, teacher)
