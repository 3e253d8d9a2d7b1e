"""Adapters beside a net's layers."""

from __future__ import annotations

import copy

import pytest
import torch
from kdcore.errors import RunError
from torch import Tensor, nn

from kdcore_speech.adapters import Adapted, adapters, without_adapters
from kdcore_speech.models.conformer import conformer

PATTERN = "encoder.blocks.*.after"


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return conformer(sample_rate=8000, vocabulary=5, width=16, depth=2, heads=2, mels=8, kernel=3).eval()


@pytest.fixture
def clips() -> tuple[Tensor, Tensor]:
    return 0.1 * torch.randn(2, 2000, generator=torch.Generator().manual_seed(1)), torch.tensor([2000, 1200])


def filled(module: nn.Module) -> None:
    """Adapters that have learnt something."""
    for part in module.modules():
        if isinstance(part, Adapted):
            nn.init.normal_(part.adapter.up.weight)
            nn.init.normal_(part.adapter.up.bias)


def test_at_first_nothing_changes(net: nn.Module, clips: tuple[Tensor, Tensor]):
    before = net(*clips).logits
    edited = adapters(net, layers=PATTERN, width=4)
    assert edited is net
    assert torch.equal(net(*clips).logits, before)


def test_an_adapter_adds_what_its_definition_says():
    layer = nn.Sequential(nn.Linear(3, 3))
    (adapted,) = adapters(nn.Sequential(layer), layers="0", width=2, scale=0.5)
    assert isinstance(adapted, Adapted)
    filled(adapted)
    x = torch.tensor([[1.0, 2.0, 6.0]])
    normed = (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
    down, up = adapted.adapter.down, adapted.adapter.up
    inner = (normed @ down.weight.T + down.bias).clamp(min=0)
    expected = layer(x) + 0.5 * (inner @ up.weight.T + up.bias)
    torch.testing.assert_close(adapted(x), expected)


def test_silent_adapters_leave_the_shared_net(net: nn.Module, clips: tuple[Tensor, Tensor]):
    before = net(*clips).logits
    adapters(net, layers=PATTERN, width=4)
    filled(net)
    with without_adapters(net):
        assert torch.equal(net(*clips).logits, before)
    assert not torch.allclose(net(*clips).logits, before)


def test_they_speak_again_after_an_error(net: nn.Module):
    adapters(net, layers=PATTERN, width=4)
    first, second = (part for part in net.modules() if isinstance(part, Adapted))
    second.enabled = False
    states: list[bool] = []

    def failing() -> None:
        with without_adapters(net):
            states.append(first.enabled)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert states == [False]
    assert (first.enabled, second.enabled) == (True, False)


def test_the_names_of_weights_are_those_that_are_promised(net: nn.Module):
    before = set(net.state_dict())
    after = set(adapters(net, layers=PATTERN, width=4).state_dict())
    moved = {name.replace(".after.", ".after.shared.") for name in before}
    assert moved < after
    parts = {name.partition(".after.adapter.")[2] for name in after - moved}
    assert parts == {f"{part}.{kind}" for part in ("norm", "down", "up") for kind in ("weight", "bias")}


def test_the_width_is_that_of_the_layers_input():
    adapted = adapters(nn.Sequential(nn.Linear(3, 3)), layers="0", width=2)[0]  # type: ignore[index]
    assert adapted.adapter.down.weight.shape == (2, 3)
    normed = adapters(nn.Sequential(nn.LayerNorm(5)), layers="0", width=2)[0]  # type: ignore[index]
    assert normed.adapter.up.weight.shape == (5, 2)


@pytest.mark.slow
def test_an_edited_net_can_be_copied_and_exported(net: nn.Module, clips: tuple[Tensor, Tensor]):
    adapters(net, layers=PATTERN, width=4)
    filled(net)
    again = copy.deepcopy(net)
    assert torch.equal(again(*clips).logits, net(*clips).logits)
    exported = torch.export.export(net, clips).module()
    torch.testing.assert_close(exported(*clips).logits, net(*clips).logits, atol=1e-5, rtol=1e-4)


def test_a_layer_that_is_not_there_is_named(net: nn.Module):
    with pytest.raises(RunError, match=r"model `the net` has no module `encoder\.block\.\*\.after`"):
        adapters(net, layers="encoder.block.*.after")


def test_a_layer_without_a_width_is_refused():
    with pytest.raises(
        RunError, match="an adapter needs a layer with a linear layer or a norm in it, and `0` has none"
    ):
        adapters(nn.Sequential(nn.ReLU()), layers="0")


def test_impossible_widths_are_refused():
    with pytest.raises(ValueError, match="width=0: give at least 1"):
        adapters(nn.Sequential(nn.Linear(2, 2)), layers="0", width=0)
