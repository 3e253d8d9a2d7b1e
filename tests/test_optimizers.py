"""The optimizers: groups, defaults, and an update that the device can skip."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from kdcore import optimizers

MADE: dict[str, Callable[[list[dict[str, Any]]], Optimizer]] = {
    "adamw": lambda groups: optimizers.adamw(groups, lr=0.1),
    "sgd": lambda groups: optimizers.sgd(groups, lr=0.1),
    "sgd-nesterov": lambda groups: optimizers.sgd(groups, lr=0.1, nesterov=True),
    "sgd-plain": lambda groups: optimizers.sgd(groups, lr=0.1, momentum=0.0),
}
made = pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
PLAIN: dict[str, Callable[[list[dict[str, Any]]], Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.01),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "sgd-nesterov": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
    "sgd-plain": lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=1e-4),
}


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1.0, 1.0, 5))


def step(optimizer: Optimizer, weights: nn.Parameter, gradient: float) -> None:
    weights.grad = torch.full_like(weights, gradient)
    optimizer.step()


@pytest.mark.parametrize("name", MADE)
def test_it_steps_as_torchs_own_does(name: str):
    here, there = parameter(), parameter()
    ours, plain = MADE[name]([{"params": [here]}]), PLAIN[name]([{"params": [there]}])
    for gradient in (1.0, -0.5, 2.0, 0.0):
        step(ours, here, gradient)
        step(plain, there, gradient)
    torch.testing.assert_close(here, there)


@made
def test_found_inf_skips_the_update(make: Callable[..., Optimizer]):
    weights = parameter()
    optimizer = make([{"params": [weights]}])
    step(optimizer, weights, 1.0)
    before = weights.detach().clone()
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    step(optimizer, weights, math.nan)
    assert torch.equal(weights, before)
    optimizer.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    step(optimizer, weights, 1.0)
    assert not torch.equal(weights, before)


@made
def test_a_skipped_update_leaves_no_trace_even_if_it_is_the_first(make: Callable[..., Optimizer]):
    here, there = parameter(), parameter()
    gated, clean = make([{"params": [here]}]), make([{"params": [there]}])
    gated.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]
    step(gated, here, math.nan)
    gated.found_inf = torch.tensor(0.0)  # type: ignore[attr-defined]
    for gradient in (1.0, -0.5):
        step(gated, here, gradient)
        step(clean, there, gradient)
    assert torch.equal(here, there)


def test_the_momentum_of_a_fresh_sgd_is_zero_and_not_left_to_chance():
    weights = parameter()
    optimizer = optimizers.sgd([{"params": [weights]}], lr=0.1)
    assert torch.equal(optimizer.state[weights]["momentum_buffer"], torch.zeros(5))


@made
def test_a_group_may_differ(make: Callable[..., Optimizer]):
    fast, slow = parameter(), parameter()
    optimizer = make([{"params": [fast]}, {"params": [slow], "lr": 0.0}])
    for weights in (fast, slow):
        weights.grad = torch.ones(5)
    optimizer.step()
    assert torch.equal(slow, parameter())
    assert not torch.equal(fast, parameter())


@made
def test_its_state_resumes_bit_for_bit(make: Callable[..., Optimizer]):
    whole, broken = parameter(), parameter()
    first, second = make([{"params": [whole]}]), make([{"params": [broken]}])
    for gradient in (1.0, 0.3):
        step(first, whole, gradient)
        step(second, broken, gradient)
    resumed = nn.Parameter(broken.detach().clone())
    third = make([{"params": [resumed]}])
    third.load_state_dict(second.state_dict())
    step(first, whole, -2.0)
    step(third, resumed, -2.0)
    assert torch.equal(resumed, whole)


def test_the_defaults_are_the_papers():
    adamw = optimizers.adamw([{"params": [parameter()]}]).defaults
    assert (adamw["lr"], adamw["weight_decay"], adamw["betas"], adamw["eps"]) == (1e-3, 0.01, (0.9, 0.999), 1e-8)
    sgd = optimizers.sgd([{"params": [parameter()]}], lr=0.1).defaults
    assert (sgd["momentum"], sgd["weight_decay"], sgd["nesterov"]) == (0.9, 1e-4, False)


def test_betas_may_be_a_list_as_a_recipe_gives_them():
    betas: Any = [0.8, 0.95]
    assert optimizers.adamw([{"params": [parameter()]}], betas=betas).defaults["betas"] == (0.8, 0.95)


def test_weight_decay_is_decoupled_in_adamw():
    weights = parameter()
    optimizer = optimizers.adamw([{"params": [weights]}], lr=0.1, weight_decay=0.5)
    step(optimizer, weights, 0.0)
    torch.testing.assert_close(weights.detach(), parameter().detach() * (1 - 0.1 * 0.5))
