"""Knowledge distillation: its temperature, its factor, its refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdcore import schedules
from kdcore.losses.base import check_temperature
from kdcore.losses.kl import KL

from . import naive


def mean(loss: KL, student: Tensor, teacher: Tensor) -> Tensor:
    total = loss({"logits": student}, {"logits": teacher}, {})
    return total.sum / total.count


@pytest.mark.parametrize("temperature", [1, 2.0, 4.0, 20.0])
def test_it_is_t_squared_times_the_divergence_at_t(student: Tensor, teacher: Tensor, temperature: float):
    truth = temperature**2 * naive.kl(student, teacher, temperature).mean()
    assert mean(KL(temperature=temperature), student, teacher).item() == pytest.approx(truth.item(), rel=1e-5)


def test_the_factor_keeps_the_gradients_size_at_high_temperature(student: Tensor, teacher: Tensor):
    norms = []
    for temperature in (20.0, 200.0):
        leaf = student.clone().requires_grad_()
        mean(KL(temperature=temperature), leaf, teacher).backward()
        assert leaf.grad is not None
        norms.append(leaf.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_at_high_temperature_it_is_half_the_squared_error_of_centred_logits(student: Tensor, teacher: Tensor):
    # Hinton et al., eq. 4: KL at large T matches logits
    s, t = (x - x.mean(-1, keepdim=True) for x in (student, teacher))
    assert mean(KL(temperature=1000.0), student.double(), teacher.double()).item() == pytest.approx(
        ((s - t) ** 2).mean().item() / 2, rel=1e-2
    )


def test_the_default_temperature_is_one(student: Tensor, teacher: Tensor):
    assert mean(KL(), student, teacher).item() == pytest.approx(naive.kl(student, teacher).mean().item(), rel=1e-6)


def test_a_scheduled_temperature_follows_the_progress(student: Tensor, teacher: Tensor):
    loss = KL(temperature=schedules.linear(start=4.0, end=2.0))
    for progress, temperature in ((0.0, 4.0), (0.5, 3.0), (1.0, 2.0)):
        loss.progress = schedules.Progress(progress)
        fixed = mean(KL(temperature=temperature), student, teacher)
        assert mean(loss, student, teacher).item() == pytest.approx(fixed.item(), rel=1e-6)


def test_a_schedule_may_give_a_device_tensor(student: Tensor, teacher: Tensor):
    loss = KL(temperature=lambda _: torch.tensor(4.0))
    fixed = mean(KL(temperature=4.0), student, teacher)
    assert mean(loss, student, teacher).item() == pytest.approx(fixed.item(), rel=1e-6)


def test_a_trained_temperature_gets_a_gradient(student: Tensor, teacher: Tensor):
    temperature = torch.tensor(2.0, requires_grad=True)
    mean(KL(temperature=lambda _: temperature), student, teacher).backward()
    assert temperature.grad is not None
    assert temperature.grad.isfinite()
    assert temperature.grad.item() != 0.0


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float):
    with pytest.raises(ValueError, match=f"temperature={temperature} is not above 0: logits are divided by it"):
        KL(temperature=temperature)


def test_a_schedule_of_the_temperature_is_not_judged_before_it_runs():
    check_temperature(schedules.constant(value=-1.0))


def test_positions_without_a_label_are_distilled_too(student: Tensor, teacher: Tensor):
    unlabelled = {"labels": torch.full((4, 5), -100)}
    total = KL()({"logits": student}, {"logits": teacher}, unlabelled)
    assert total.count.item() == 20
    assert total.sum.item() > 1.0


def test_soft_labels_leave_the_count_to_forward(student: Tensor, teacher: Tensor):
    batch = {"labels": torch.rand(4, 5, 7)}
    assert KL().count(batch) is None
    assert KL()({"logits": student}, {"logits": teacher}, batch).count.item() == 20


def test_it_has_no_state():
    assert not KL(temperature=4.0).state_dict()
