from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import SLIM
from torch import nn

from kdcore_detection.models.backbone import Pyramid, pyramid


def make(**given: Any) -> Pyramid:
    usual: dict[str, Any] = {
        "backbone": "timm/resnet18", "channels": 3, "levels": [3, 4, 5], "width": 16, "weights": None, "options": SLIM,
    }  # fmt: skip
    return pyramid(**{**usual, **given})


def shapes(net: Pyramid, channels: int = 3, side: int = 64) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(one.shape) for one in net.eval()(torch.zeros(2, channels, side, side))]


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("timm/resnet18", SLIM),
        ("timm/mobilenetv3_small_050", None),
        ("timm/swin_tiny_patch4_window7_224", {"img_size": [64, 64], "embed_dim": 24, "depths": [1, 1, 1, 1]}),
        ("resnet18", None),
        ("mobilenet_v3_small", None),
    ],
)
def test_a_map_of_each_level(backbone: str, options: dict[str, Any] | None):
    net = make(backbone=backbone, options=options)
    assert shapes(net) == [(2, 16, 8, 8), (2, 16, 4, 4), (2, 16, 2, 2)]
    assert net.strides == (8, 16, 32)


@pytest.mark.parametrize("levels", [[2, 3], [4], [5, 6], [3, 4, 5, 6, 7]])
@pytest.mark.parametrize("backbone", ["timm/resnet18", "resnet18"])
def test_the_levels_that_are_asked_for(backbone: str, levels: list[int]):
    net = make(backbone=backbone, levels=levels, options=SLIM if "/" in backbone else None)
    sides = [max(1, 64 // 2**level) for level in levels]
    assert shapes(net) == [(2, 16, side, side) for side in sides]
    assert net.multiple == 2 ** min(5, levels[-1])


def test_all_weights_are_used():
    """One without a gradient would stop training on several devices."""
    net = make(levels=[3, 4])
    sum(one.sum() for one in net(torch.rand(2, 3, 64, 64))).backward()  # type: ignore[union-attr]
    assert [name for name, weight in net.named_parameters() if weight.grad is None] == []


def test_positions_are_picked_where_convolutions_are_not_wanted():
    net = make(levels=[4, 5, 6], coarser="pool").eval()
    with torch.no_grad():
        *_, fine, coarse = net(torch.rand(1, 3, 128, 128))
    assert torch.equal(coarse, fine[:, :, ::2, ::2])
    assert not hasattr(net.fpn.extra_blocks, "p6")


def test_the_pyramid_s_maps_can_be_tapped():
    net = make(levels=[3, 4, 5, 6]).eval()
    seen: dict[str, torch.Tensor] = {}
    for name in ("fpn.layer_blocks.0", "fpn.layer_blocks.2", "fpn.extra_blocks.p6"):
        net.get_submodule(name).register_forward_hook(lambda *given, name=name: seen.update({name: given[-1]}))
    maps = net(torch.rand(1, 3, 64, 64))
    assert [torch.equal(seen[name], maps[i]) for name, i in zip(seen, (2, 0, 3), strict=True)] == [True] * 3
    assert list(seen) == ["fpn.layer_blocks.2", "fpn.layer_blocks.0", "fpn.extra_blocks.p6"]  # coarse to fine


@pytest.mark.parametrize("channels", [1, 5])
def test_timm_takes_any_channels(channels: int):
    assert shapes(make(channels=channels), channels)[0] == (2, 16, 8, 8)


def test_equal_seeds_give_equal_nets():
    """timm's net is made twice, of which the weights must not know."""

    def made() -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        return make().state_dict()

    first, second = made(), made()
    assert all(torch.equal(first[name], second[name]) for name in first)


class _Fetched(nn.Module):
    """Stands for what timm gives, so that nothing is fetched."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.feature_info = body, body.feature_info
        self.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}


def test_weights_of_timm_are_named_by_their_tag(monkeypatch: pytest.MonkeyPatch):
    import timm

    create, asked = timm.create_model, []

    def pretend(name: str, *, pretrained: bool = False, **given: Any) -> nn.Module:
        asked.append((name, pretrained))
        made = create(name.partition(".")[0], **given)
        return _Fetched(made) if pretrained else made

    monkeypatch.setattr(timm, "create_model", pretend)
    net = make(weights="a1_in1k")
    assert asked == [("resnet18", False), ("resnet18.a1_in1k", True)]
    assert net.statistics == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_weights_of_torchvision_are_named_by_their_entry(monkeypatch: pytest.MonkeyPatch):
    import kdcore_detection.models.backbone as module

    get_model, asked = module.get_model, []

    def pretend(name: str, *, weights: Any) -> nn.Module:
        asked.append(weights)
        return get_model(name, weights=None)

    monkeypatch.setattr(module, "get_model", pretend)
    net = make(backbone="resnet18", weights="IMAGENET1K_V1", options=None)
    assert [str(weights) for weights in asked] == ["ResNet18_Weights.IMAGENET1K_V1"]
    assert net.statistics == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


# --- refusals


@pytest.mark.parametrize("levels", [[], [3, 5], [5, 4], [6, 7]])
def test_levels_that_are_none(levels: list[int]):
    with pytest.raises(ValueError, match="give levels in a row, the first at most 5, such as"):
        make(levels=levels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0}, "width=0 is below 1"),
        (
            {"backbone": "resnet10t"},
            "backbone=resnet10t: torchvision has no such net; one of timm's is `timm/resnet10t`",
        ),
        ({"backbone": "timm/resnet1"}, "backbone=timm/resnet1: timm has no such net; it has .*resnet1"),
        ({"backbone": "timm/qqq"}, "backbone=timm/qqq: timm has no such net$"),
        (
            {"backbone": "resnet18", "channels": 1, "options": None},
            "backbone=resnet18: torchvision's nets take 3 channels, the images have 1; timm's any",
        ),
        ({"backbone": "resnet18", "options": {"colour": 1}}, "torchvision makes no backbone `resnet18`: .*colour"),
        ({"options": {"colour": 1}}, "timm makes no backbone `resnet18`: .*colour"),
        (
            {"backbone": "resnet18", "options": None, "weights": "BEST"},
            "torchvision makes no backbone `resnet18`: BEST",
        ),
        (
            {"backbone": "squeezenet1_0", "options": None},
            "backbone=squeezenet1_0: it has no map of level 5; its levels are 1, 2, 3, 4",
        ),
        (
            {"backbone": "timm/vit_tiny_patch16_224", "options": None},
            "backbone=timm/vit_tiny_patch16_224: it has no map of level 3; its levels are 4",
        ),
        (
            {"backbone": "googlenet", "options": {"init_weights": False}},
            "backbone=googlenet: it has no maps of several strides; take a ResNet, or one of timm's",
        ),
        ({"levels": [4, 5, 6, 7], "coarser": "pool"}, "picking positions gives one level above 5, not 2"),
        ({"options": {"in_chans": 1}}, "options.in_chans: the parameter `channels` is meant for it"),
        ({"options": {"out_indices": [1]}}, "options.out_indices: the parameter `levels` is meant for it"),
        ({"options": {"pretrained": True}}, "options.pretrained: the parameter `backbone_weights` is meant for it"),
        ({"options": {"weights": "X"}}, "options.weights: the parameter `backbone_weights` is meant for it"),
        ({"options": {"features_only": 1}}, "options.features_only: that is how a backbone is made"),
    ],
)
def test_what_cannot_be_is_named(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make(**given)


def test_a_net_whose_maps_have_channels_last_is_not_mistaken():
    """torchvision's Swin would give its width for its height."""
    with pytest.raises(ValueError, match="backbone=swin_t: it has no maps of several strides"):
        make(backbone="swin_t", options=None)
