"""Element means: equal elements, whatever the mask and the layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdcore.losses.base import Loss
from kdcore.losses.regression import MSE, SmoothL1
from kdcore.signals import Batch

from . import naive


def mean(loss: Loss, student: Tensor, teacher: Tensor, batch: Batch) -> float:
    total = loss({"logits": student}, {"logits": teacher}, batch)
    value: float = (total.sum / total.count).item()
    return value


def features(*shape: int) -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn(2, *shape, generator=torch.Generator().manual_seed(4))
    return student, teacher


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 3, 4), (6, 3, 4, 5)])
@pytest.mark.parametrize("class_axis", [-1, 1])
def test_the_mean_over_all_elements_in_any_layout(shape: tuple[int, ...], class_axis: int):
    student, teacher = features(*shape)
    for loss, exact in ((MSE(), naive.squared_error), (SmoothL1(beta=0.5), None)):
        loss.class_axis = class_axis
        terms = exact(student, teacher, axis=0) if exact else naive.smooth_l1(student, teacher, axis=0, beta=0.5)
        truth = terms.mean().item()
        assert mean(loss, student, teacher, {}) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("loss", [MSE(), SmoothL1()], ids=["mse", "smooth_l1"])
def test_the_mean_over_the_elements_of_masked_positions(loss: Loss, student: Tensor, teacher: Tensor, mask: Tensor):
    unmasked = mean(loss, student[mask], teacher[mask], {})
    assert mean(loss, student, teacher, {"mask": mask}) == pytest.approx(unmasked, rel=1e-6)


@pytest.mark.parametrize("loss", [MSE(), SmoothL1()], ids=["mse", "smooth_l1"])
def test_one_number_per_sample_may_be_masked(loss: Loss):
    student, teacher = features(6)
    kept = torch.tensor([True, True, False, True, False, True])
    total = loss({"logits": student}, {"logits": teacher}, {"mask": kept})
    assert total.count.item() == 4
    assert (total.sum / 4).item() == pytest.approx(mean(loss, student[kept], teacher[kept], {}), rel=1e-6)


def test_mse_is_not_halved():
    assert mean(MSE(), torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]), {}) == 2.0


def test_smooth_l1_is_a_parabola_then_a_line():
    for distance, value in ((0.5, 0.125), (1.0, 0.5), (3.0, 2.5), (-3.0, 2.5)):
        assert mean(SmoothL1(), torch.tensor([[distance]]), torch.zeros(1, 1), {}) == pytest.approx(value)


def test_smooth_l1_with_beta_zero_is_the_mean_absolute_error(student: Tensor, teacher: Tensor):
    assert mean(SmoothL1(beta=0.0), student, teacher, {}) == pytest.approx((student - teacher).abs().mean().item())


@pytest.mark.parametrize("beta", [-1.0, float("nan")])
def test_a_negative_beta_is_refused(beta: float):
    with pytest.raises(ValueError, match=f"beta={beta} is negative"):
        SmoothL1(beta=beta)


def test_a_mask_without_the_class_axis_is_asked_for():
    student, teacher = features(2, 3, 4)
    with pytest.raises(ValueError, match=r"`mask` has shape \(2, 4\), the loss has one term for each of \(2, 3\)"):
        mean(MSE(), student, teacher, {"mask": torch.ones(2, 4, dtype=torch.bool)})
