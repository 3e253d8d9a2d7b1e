"""The small convolutional classifier."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdcore.models.convnet import ConvNet


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 32, 32), (2, 5, 3), (1, 1, 1)])
def test_logits_for_any_size_in_both_modes(norm: str, training: bool, channels: int, height: int, width: int) -> None:
    net = ConvNet(classes=7, channels=channels, width=6, depth=4, norm=norm).train(training)  # type: ignore[arg-type]
    logits = net(torch.rand(3, channels, height, width))
    assert logits.shape == (3, 7)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_submodules_that_recipes_tap() -> None:
    net = ConvNet(classes=10, channels=1, width=4, depth=3)
    shapes = {}
    for path in ("stem", "blocks.0", "blocks.1", "blocks.2", "head"):
        net.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, path=path: shapes.update({path: tuple(output.shape)})
        )
    net(torch.rand(2, 1, 8, 8))
    assert shapes == {
        "stem": (2, 4, 8, 8),
        "blocks.0": (2, 8, 4, 4),
        "blocks.1": (2, 16, 2, 2),
        "blocks.2": (2, 32, 1, 1),
        "head": (2, 10),
    }


def test_the_head_reads_the_mean_over_positions() -> None:
    net = ConvNet(classes=3, channels=1, width=4, depth=1).eval()
    image = torch.rand(2, 1, 6, 6)
    maps = net.blocks(net.stem(image))
    torch.testing.assert_close(net(image), F.linear(maps.mean((2, 3)), net.head.weight, net.head.bias))


@pytest.mark.parametrize(("norm", "kind", "biased"), [("batch", nn.BatchNorm2d, 0), ("group", nn.GroupNorm, 0)])
def test_a_norm_takes_the_place_of_biases(norm: str, kind: type[nn.Module], biased: int) -> None:
    net = ConvNet(classes=3, channels=1, norm=norm)  # type: ignore[arg-type]
    assert sum(isinstance(module, kind) for module in net.modules()) == 4
    assert all(module.bias is None for module in net.modules() if isinstance(module, nn.Conv2d))


def test_without_a_norm_convolutions_have_biases_and_nothing_is_buffered() -> None:
    net = ConvNet(classes=3, channels=1, norm="none")
    assert all(module.bias is not None for module in net.modules() if isinstance(module, nn.Conv2d))
    assert not list(net.buffers())


@pytest.mark.parametrize(("norm", "independent"), [("batch", False), ("group", True), ("none", True)])
def test_only_batch_norm_lets_samples_see_each_other(norm: str, independent: bool) -> None:
    net = ConvNet(classes=3, channels=1, width=6, norm=norm).train()  # type: ignore[arg-type]
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(net(images)[:2], net(images[:2]), atol=1e-5) == independent


def test_width_and_depth_set_the_size() -> None:
    def parameters(width: int, depth: int) -> int:
        net = ConvNet(classes=10, channels=1, width=width, depth=depth, norm="none")
        return sum(parameter.numel() for parameter in net.parameters())

    assert parameters(4, 1) == (9 * 1 * 4 + 4) + (9 * 4 * 8 + 8) + (8 * 10 + 10)
    assert parameters(4, 2) == parameters(4, 1) - (8 * 10) + (9 * 8 * 16 + 16) + 16 * 10


@pytest.mark.parametrize(("width", "depth"), [(0, 3), (8, 0)])
def test_an_empty_net_is_refused(width: int, depth: int) -> None:
    with pytest.raises(ValueError, match=f"width={width} and depth={depth}: give at least 1 of each"):
        ConvNet(classes=2, channels=1, width=width, depth=depth)
