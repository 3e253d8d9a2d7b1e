"""Pearson distillation: its value is one minus the correlation, and neither scale nor level is taught."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from kdcore.losses.pkd import Pearson


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's r of two lists of numbers, in plain Python."""
    a, b = x.flatten().double().tolist(), y.flatten().double().tolist()
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    both = sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True))
    one, other = (sum((p - m) ** 2 for p in v) for v, m in ((a, mean_a), (b, mean_b)))
    return both / (one * other) ** 0.5


def mean(loss_run, student: Tensor, teacher: Tensor) -> float:
    total = loss_run(Pearson(), student, teacher)
    assert total.count.item() == len(student)
    value: float = (total.sum / total.count).item()
    return value


def test_it_is_one_minus_the_mean_correlation_of_the_channels(run, student_map: Tensor, teacher_map: Tensor):
    each = [correlation(student_map[:, c], teacher_map[:, c]) for c in range(5)]
    assert mean(run, student_map, teacher_map) == pytest.approx(1 - sum(each) / 5, rel=1e-5)


def test_it_is_half_the_squared_error_of_standardised_features(run, student_map: Tensor, teacher_map: Tensor):
    def standardised(x: Tensor) -> Tensor:
        return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True, correction=0)

    half = 0.5 * (standardised(student_map) - standardised(teacher_map)).square().mean().item()
    assert mean(run, student_map, teacher_map) == pytest.approx(half, rel=1e-5)


def test_by_hand(run):
    teacher = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    for student, value in (([1.0, 2.0, 3.0], 0.0), ([3.0, 2.0, 1.0], 2.0), ([1.0, 3.0, 2.0], 0.5)):
        assert mean(run, torch.tensor(student).view(1, 1, 1, 3), teacher) == pytest.approx(value, abs=1e-6)


def test_neither_scale_nor_level_of_a_channel_is_taught(run, student_map: Tensor, teacher_map: Tensor):
    scale, level = torch.tensor([1.0, 0.1, 30.0, 7.0, 2.0]).view(1, 5, 1, 1), torch.randn(1, 5, 1, 1)
    known = mean(run, student_map, teacher_map)
    assert mean(run, student_map * scale + level, teacher_map) == pytest.approx(known, rel=1e-4)
    assert mean(run, student_map, teacher_map * scale + level) == pytest.approx(known, rel=1e-4)
    assert mean(run, -student_map, teacher_map) == pytest.approx(2 - known, rel=1e-5)


def test_a_channel_is_standardised_over_the_batch_not_in_each_sample(run):
    student = torch.tensor([0.0, 1.0, 5.0, 6.0]).view(2, 1, 1, 2)
    each_alone = torch.tensor([5.0, 6.0, 0.0, 1.0]).view(2, 1, 1, 2)
    assert mean(run, student[:1], each_alone[:1]) == pytest.approx(0.0, abs=1e-6)
    # deviations -3 -2 2 3 and 2 3 -3 -2 from 3
    assert mean(run, student, each_alone) == pytest.approx(1 - -24 / 26, rel=1e-5)
    assert Pearson.relational


def test_the_gradient_is_that_of_the_value(student_map: Tensor, teacher_map: Tensor):
    leaf = student_map[:2, :2, :2, :3].double().requires_grad_()
    loss, like = Pearson(), teacher_map[:2, :2, :2, :3]
    torch.autograd.gradcheck(
        lambda s: loss({"feature": s}, {"feature": like}, {}).sum, leaf, eps=1e-3, atol=1e-2, rtol=1e-2
    )


def test_the_teacher_gets_a_gradient_only_where_the_core_lets_it(run, student_map: Tensor, teacher_map: Tensor):
    leaf = student_map.clone().requires_grad_()
    run(Pearson(), leaf, teacher_map).sum.backward()
    assert leaf.grad is not None
    assert leaf.grad.any()
    assert teacher_map.grad is None


@pytest.mark.parametrize("level", [0.0, 1.0, 0.1, 1e4])
def test_a_constant_channel_has_a_term_of_one_and_no_gradient(
    run, student_map: Tensor, teacher_map: Tensor, level: float
):
    student = student_map.clone()
    student[:, 1] = level
    leaf = student.requires_grad_()
    total = run(Pearson(), leaf, teacher_map)
    total.sum.backward()
    kept = [c for c in range(5) if c != 1]
    others = [1 - correlation(student_map[:, c], teacher_map[:, c]) for c in kept]
    assert (total.sum / total.count).item() == pytest.approx((sum(others) + 1) / 5, rel=1e-5)
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert not leaf.grad[:, 1].any()
    assert leaf.grad[:, kept].any()


def test_a_constant_channel_of_the_teacher_teaches_nothing(run, student_map: Tensor, teacher_map: Tensor):
    teacher_map[:, 2] = 0.1
    leaf = student_map.requires_grad_()
    run(Pearson(), leaf, teacher_map).sum.backward()
    assert leaf.grad is not None
    assert not leaf.grad[:, 2].any()


def test_a_small_variation_on_a_high_level_is_no_constant(run):
    student = (100.0 + 0.01 * torch.arange(6.0)).view(1, 1, 2, 3)
    assert mean(run, student, torch.arange(6.0).view(1, 1, 2, 3)) == pytest.approx(0.0, abs=1e-3)


def test_half_precision_is_computed_in_float32(run, student_map: Tensor, teacher_map: Tensor):
    half = [x.bfloat16() for x in (student_map, teacher_map)]
    assert mean(run, *half) == pytest.approx(mean(run, *(x.float() for x in half)), rel=1e-6)


def test_nan_is_never_hidden(run, student_map: Tensor, teacher_map: Tensor):
    student_map[1, 2, 3, 4] = float("nan")
    assert run(Pearson(), student_map, teacher_map).sum.isnan()


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((3, 5, 8, 12), "`resize: student` or `resize: teacher` where spatial sizes differ"),
        ((3, 7, 4, 6), "give the tap a projector, such as `project: conv1x1`, where channels differ"),
        ((3, 5), "the teacher's signal has shape (3, 5); this loss compares maps (N, C, H, W)"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(run, student_map: Tensor, shape: tuple[int, ...], said: str):
    with pytest.raises(ValueError, match=re.escape(said)):
        run(Pearson(), student_map, torch.zeros(shape))
