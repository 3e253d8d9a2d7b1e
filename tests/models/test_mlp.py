"""The multilayer perceptron."""

from __future__ import annotations

import pytest
import torch

from kdcore.models.mlp import MLP


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(12,), (3, 4), (1, 3, 4)])
def test_any_input_is_flattened(training: bool, shape: tuple[int, ...]) -> None:
    net = MLP(classes=5, features=12, dropout=0.5).train(training)
    assert net(torch.rand(4, *shape)).shape == (4, 5)


def test_without_dropout_and_hidden_layers_it_is_linear() -> None:
    net = MLP(classes=5, features=12, hidden=[])
    x = torch.rand(4, 3, 4)
    torch.testing.assert_close(net(x), x.flatten(1) @ net.head.weight.T + net.head.bias)
    assert [name for name, _ in net.named_parameters()] == ["head.weight", "head.bias"]


def test_hidden_layers_can_be_tapped_and_are_rectified() -> None:
    net = MLP(classes=5, features=12, hidden=[7, 9])
    x = torch.randn(6, 12)
    first = net.get_submodule("hidden.0")(x)
    second = net.get_submodule("hidden.1")(first)
    assert (first.shape, second.shape) == ((6, 7), (6, 9))
    assert first.min() == 0
    torch.testing.assert_close(net(x), net.head(second))
    torch.testing.assert_close(first, (x @ net.hidden[0].linear.weight.T + net.hidden[0].linear.bias).relu())


def test_dropout_drops_its_share_in_training_only() -> None:
    net = MLP(classes=2, features=4, hidden=[10_000], dropout=0.3)
    hidden = net.hidden[0]
    torch.nn.init.ones_(hidden.linear.weight)
    torch.manual_seed(0)
    dropped = (hidden(torch.ones(1, 4)) == 0).float().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.02)
    assert (hidden.eval()(torch.ones(1, 4)) == 0).sum() == 0


def test_the_default_widths_are_not_shared_between_nets() -> None:
    assert [layer.linear.out_features for layer in MLP(classes=2, features=4).hidden] == [128, 128]


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5])
def test_an_impossible_dropout_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match=rf"dropout={dropout} is not in \[0, 1\)"):
        MLP(classes=2, features=4, dropout=dropout)


def test_an_empty_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hidden=\[8, 0\]: every layer needs a width of at least 1"):
        MLP(classes=2, features=4, hidden=[8, 0])
