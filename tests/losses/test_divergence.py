"""The choice between divergences, their factors and their refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore import schedules
from kdcore.losses.divergence import KINDS, Divergence
from kdcore.losses.kl import KL

from . import naive

NAIVE = {"forward_kl": naive.kl, "reverse_kl": naive.reverse_kl, "jsd": naive.jsd, "tvd": naive.tvd}


def mean(loss: torch.nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    total = loss({"logits": student}, {"logits": teacher}, {})
    value: Tensor = total.sum / total.count
    return value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_each_kind_is_its_definition_times_its_factor(kind: Any, temperature: float, student: Tensor, teacher: Tensor):
    factor = temperature if kind == "tvd" else temperature**2
    truth = factor * NAIVE[kind](student, teacher, temperature).mean()
    loss = Divergence(kind=kind, temperature=temperature)
    assert mean(loss, student, teacher).item() == pytest.approx(truth.item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_factor_keeps_the_gradients_size_at_high_temperature(kind: Any, student: Tensor, teacher: Tensor):
    norms = []
    for temperature in (50.0, 500.0):
        leaf = student.double().requires_grad_()
        mean(Divergence(kind=kind, temperature=temperature), leaf, teacher.double()).backward()
        assert leaf.grad is not None
        norms.append(leaf.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_forward_kl_is_the_loss_kl(student: Tensor, teacher: Tensor):
    here = mean(Divergence(kind="forward_kl", temperature=4.0), student, teacher)
    assert here.item() == mean(KL(temperature=4.0), student, teacher).item()


def test_reverse_kl_is_the_other_way_round(student: Tensor, teacher: Tensor):
    reverse = mean(Divergence(kind="reverse_kl"), student, teacher)
    assert reverse.item() == mean(Divergence(kind="forward_kl"), teacher, student).item()
    assert reverse.item() != pytest.approx(mean(Divergence(kind="forward_kl"), student, teacher).item(), rel=1e-2)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_beta_is_the_teachers_share(student: Tensor, teacher: Tensor, beta: float):
    truth = naive.jsd(student, teacher, beta=beta).mean()
    assert mean(Divergence(kind="jsd", beta=beta), student, teacher).item() == pytest.approx(truth.item(), rel=1e-5)


def test_the_defaults_are_the_symmetric_jsd_at_one(student: Tensor, teacher: Tensor):
    loss = Divergence()
    assert (loss.kind, loss.beta, loss.temperature) == ("jsd", 0.5, 1.0)


def test_forward_kl_covers_modes_and_reverse_kl_seeks_them():
    teacher = torch.tensor([0.5, 0.5, 1e-6]).log()
    one_mode, spread = torch.tensor([1.0, 1e-6, 1e-6]).log(), torch.tensor([0.34, 0.33, 0.33]).log()
    forward, reverse = (Divergence(kind=kind) for kind in ("forward_kl", "reverse_kl"))
    assert mean(forward, spread, teacher) < mean(forward, one_mode, teacher)
    assert mean(reverse, one_mode, teacher) < mean(reverse, spread, teacher)


def test_a_scheduled_temperature_follows_the_progress(student: Tensor, teacher: Tensor):
    loss = Divergence(temperature=schedules.linear(start=1.0, end=3.0))
    loss.progress = schedules.Progress(0.5)
    fixed = mean(Divergence(temperature=2.0), student, teacher)
    assert mean(loss, student, teacher).item() == pytest.approx(fixed.item(), rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 1.5])
def test_a_beta_that_makes_jsd_nothing_is_refused(beta: float):
    with pytest.raises(ValueError, match=rf"beta={beta} is not in \(0, 1\).*use kind forward_kl or reverse_kl"):
        Divergence(beta=beta)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"kind='renyi' .* use one of forward_kl, reverse_kl, jsd, tvd"):
        Divergence(kind="renyi")  # type: ignore[arg-type]


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="temperature=0 is not above 0"):
        Divergence(temperature=0)


def test_an_unknown_kind():
    with pytest.raises(ValueError, match=r"kind='kl' is no divergence known here: use one of forward_kl, reverse_kl,"):
        Divergence(kind="kl")  # type: ignore[arg-type]
