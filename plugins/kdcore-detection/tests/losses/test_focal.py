from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import Tensor

from kdcore_detection.losses.focal import check_focal, focal, is_class, over_positions, quality_focal

LOGITS = torch.tensor([-100.0, -3.0, -0.5, 0.0, 0.5, 3.0, 100.0])


def test_classes_of_positions():
    assigned = torch.tensor([[1, -1, 0, -2], [0, 0, -1, -1]])
    labels = torch.tensor([[2, 0], [1, -100]])
    found = is_class(assigned, labels, 3)
    assert found.shape == (2, 4, 3)
    assert found.nonzero().tolist() == [[0, 0, 0], [0, 2, 2], [1, 0, 1], [1, 1, 1]]


def test_ignored_positions_are_left_out_of_the_sum():
    terms = torch.tensor([[[1.0, 2.0], [4.0, 8.0], [math.nan, math.inf]]])
    assert over_positions(terms, torch.tensor([[0, -1, -2]])).item() == 15


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("target", [True, False])
def test_focal_as_written_out(gamma: float, target: bool):
    found = focal(LOGITS[1:-1], torch.full((5,), target), alpha=0.3, gamma=gamma)
    for x, value in zip(LOGITS[1:-1].tolist(), found.tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        p_t, alpha_t = (p, 0.3) if target else (1 - p, 0.7)
        assert value == pytest.approx(-alpha_t * (1 - p_t) ** gamma * math.log(p_t), rel=1e-5)


def test_focal_and_its_gradient_as_torchvision_s():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)).mul(3).requires_grad_()
    target = torch.arange(50) % 3 == 0
    ours = focal(x, target, alpha=0.25, gamma=2.0)
    theirs = torchvision.ops.sigmoid_focal_loss(x, target.float(), alpha=0.25, gamma=2.0)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss.sum(), x)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_finite_at_the_ends(gamma: float):
    for target in (True, False):
        x = LOGITS.clone().requires_grad_()
        value = focal(x, torch.full((7,), target), alpha=0.25, gamma=gamma)
        value.sum().backward()
        assert value.isfinite().all()
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("beta", [1.0, 2.0, 2.5])
@pytest.mark.parametrize("y", [0.0, 0.3, 1.0])
def test_quality_focal_as_written_out(beta: float, y: float):
    found = quality_focal(LOGITS[1:-1], torch.full((5,), y), beta=beta)
    for x, value in zip(LOGITS[1:-1].tolist(), found.tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        expected = -(abs(y - p) ** beta) * ((1 - y) * math.log(1 - p) + y * math.log(p))
        assert value == pytest.approx(expected, rel=1e-5)


def test_with_labels_of_0_and_1_quality_focal_is_focal():
    target = LOGITS > 0
    by_quality = quality_focal(LOGITS, target.float(), beta=2.0)
    torch.testing.assert_close(by_quality, 2 * focal(LOGITS, target, alpha=0.5, gamma=2.0))


def test_quality_focal_is_least_at_the_target():
    grid = torch.linspace(-3, 3, 121)
    terms: Tensor = quality_focal(grid, torch.full_like(grid, 0.7), beta=2.0)
    assert grid[terms.argmin()].sigmoid().item() == pytest.approx(0.7, abs=0.01)
    assert terms.min().item() == pytest.approx(0.0, abs=1e-4)


def test_half_precision_is_computed_in_float32():
    x, target = LOGITS.bfloat16(), LOGITS > 0
    assert focal(x, target, alpha=0.25, gamma=2.0).dtype == torch.float32
    assert quality_focal(x, target.float(), beta=2.0).dtype == torch.float32


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_is_a_share(alpha: float):
    with pytest.raises(ValueError, match=rf"alpha={alpha} is not in \[0, 1\]: it is the weight of objects"):
        check_focal(alpha, 2.0)


def test_gamma_is_not_negative():
    with pytest.raises(ValueError, match=r"gamma=-1.0 is below 0: it would look at what is easy"):
        check_focal(0.25, -1.0)
