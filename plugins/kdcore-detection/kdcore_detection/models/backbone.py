"""Backbones of torchvision and timm with a feature pyramid on top, named as in torchvision's detectors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork, LastLevelMaxPool

TIMM = "timm/"
"""What a backbone's name begins with when it is timm's."""

DEEPEST = 5
"""The last level that a backbone gives, of stride 32; coarser ones are made by the pyramid."""


Statistics = tuple[list[float], list[float]] | None
"""Mean and std of an image's channels."""


TAKEN = {
    "features_only": "that is how a backbone is made",
    "in_chans": "the parameter `channels` is meant for it",
    "out_indices": "the parameter `levels` is meant for it",
    "pretrained": "the parameter `backbone_weights` is meant for it",
    "weights": "the parameter `backbone_weights` is meant for it",
}
"""Options that are not passed on, and why."""


class Pyramid(nn.Module):
    """``body``, a backbone that gives a map for each level, and ``fpn``, which gives all of them the same channels.

    Shape: (N, channels, H, W) -> a list of (N, width, H / 2^l, W / 2^l), fine to coarse. Taps:
    ``fpn.layer_blocks.*`` are the maps of the levels up to 5, finest first, ``fpn.extra_blocks.p6`` the next one.

    Attributes:
        strides: of the levels.
        multiple: both sides of an image must be multiples of this.
        width: channels of every map.
        statistics: mean and std that the backbone's weights were trained with, if it has any.

    **Paper**: Lin et al., Feature Pyramid Networks for Object Detection, 2016 (arXiv 1612.03144).
    """

    def __init__(
        self, body: nn.Module, fpn: nn.Module, levels: Sequence[int], width: int, statistics: Statistics = None
    ) -> None:
        super().__init__()
        self.body, self.fpn = body, fpn
        self.statistics = statistics
        self._is_channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        self.strides = tuple(2**level for level in levels)
        self.multiple = 2 ** min(DEEPEST, max(levels))
        self.width = width

    def check_size(self, image: Tensor, detector: str) -> None:
        """Refuse an image whose maps would not lie upon each other.

        Args:
            image: (N, channels, H, W).
            detector: whose pyramid this is, in words.

        Raises:
            ValueError: a side is no multiple of ``multiple``.
        """
        height, width = image.shape[-2:]
        if height % self.multiple or width % self.multiple:
            fitting = [max(1, round(side / self.multiple)) * self.multiple for side in (height, width)]
            raise ValueError(
                f"the image is {height}x{width}, and this {detector} takes multiples of {self.multiple}: set `size` of "
                f"the data (or of the crop) to {fitting}"
            )

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.body(image)
        maps = list(maps.values()) if isinstance(maps, dict) else maps
        if self._is_channels_last:
            maps = [one.permute(0, 3, 1, 2) for one in maps]
        return list(self.fpn(OrderedDict((str(i), one) for i, one in enumerate(maps))).values())


def pyramid(
    *,
    backbone: str,
    channels: int,
    levels: Sequence[int],
    width: int,
    weights: str | None,
    options: dict[str, Any] | None,
    coarser: Literal["convolution", "pool"] = "convolution",
) -> Pyramid:
    """A backbone and its feature pyramid.

    Args:
        backbone: a classifier of torchvision, such as ``resnet50``, or one of timm, such as ``timm/resnet10t``.
        channels: of the image.
        levels: which, in a row; level l has a stride of 2^l.
        width: channels of every level.
        weights: of torchvision (``IMAGENET1K_V1``) or timm (the tag, ``a1_in1k``), fetched now; none by default.
        options: further keywords of the backbone.
        coarser: what makes the levels above 5: convolutions of stride 2, or picking every other position.

    Raises:
        ValueError: levels that are none, or that the backbone does not have; a width below 1; no such backbone, weights
            or option.
    """
    if not levels or list(levels) != list(range(levels[0], levels[0] + len(levels))) or levels[0] > DEEPEST:
        raise ValueError(f"levels={list(levels)}: give levels in a row, the first at most {DEEPEST}, such as [3, 4, 5]")
    if width < 1:
        raise ValueError(f"width={width} is below 1")
    for name, why in TAKEN.items():
        if name in (options or {}):
            raise ValueError(f"options.{name}: {why}")
    inner = [level for level in levels if level <= DEEPEST]
    make = _timm if backbone.startswith(TIMM) else _torchvision
    body, widths, statistics = make(backbone.removeprefix(TIMM), inner, channels, weights, options or {})
    extra = len(levels) - len(inner)
    if coarser == "pool" and extra > 1:
        raise ValueError(f"levels={list(levels)}: picking positions gives one level above {DEEPEST}, not {extra}")
    block = None if not extra else LastLevelMaxPool() if coarser == "pool" else CoarserLevels(width, extra)
    return Pyramid(body, FeaturePyramidNetwork(widths, width, extra_blocks=block), levels, width, statistics)


class CoarserLevels(ExtraFPNBlock):  # type: ignore[misc]
    """``p6``, ``p7``, ...: each a convolution of stride 2 over the level before it, with a ReLU between two of them."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.names = [f"p{DEEPEST + 1 + i}" for i in range(count)]
        for name in self.names:
            convolution = nn.Conv2d(width, width, 3, 2, 1)
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            self.add_module(name, convolution)

    def forward(self, maps: list[Tensor], inner: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        for i, name in enumerate(self.names):
            maps.append(self.get_submodule(name)(F.relu(maps[-1]) if i else maps[-1]))
        return maps, [*names, *self.names]


def _torchvision(
    name: str, levels: list[int], channels: int, weights: str | None, options: dict[str, Any]
) -> tuple[nn.Module, list[int], Statistics]:
    if name not in list_models():
        raise ValueError(f"backbone={name}: torchvision has no such net; one of timm's is `{TIMM}{name}`")
    if channels != 3:
        raise ValueError(f"backbone={name}: torchvision's nets take 3 channels, the images have {channels}; timm's any")
    try:
        chosen = None if weights is None else get_model_weights(name)[weights]
        net: nn.Module = get_model(name, weights=chosen, **options)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"torchvision makes no backbone `{name}`: {error.args[0] if error.args else error}") from error
    trunk = net if hasattr(net, "layer4") else getattr(net, "features", None)
    found = _last_of_stride(trunk) if isinstance(trunk, nn.Module) else {}
    if trunk is None or not found:
        raise ValueError(f"backbone={name}: it has no maps of several strides; take a ResNet, or one of timm's")
    missing = [level for level in levels if level not in found]
    if missing:
        raise ValueError(_no_level(name, missing[0], list(found)))
    body = IntermediateLayerGetter(trunk, {found[level][0]: str(i) for i, level in enumerate(levels)})
    transforms = None if chosen is None else chosen.transforms()
    statistics = None if transforms is None else (list(transforms.mean), list(transforms.std))
    return body, [found[level][1] for level in levels], statistics


def _last_of_stride(trunk: nn.Module) -> dict[int, tuple[str, int]]:
    """Level -> the last child that gives its stride, and its channels: told by running a small image through."""
    side = 64
    found: dict[int, tuple[str, int]] = {}
    x = torch.zeros(1, 3, side, side)
    was_training = trunk.training
    trunk.eval()
    with torch.no_grad():
        for child, module in trunk.named_children():
            x = module(x)
            if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[2] != x.shape[3] or x.shape[2] < side // 2**DEEPEST:
                break  # no map of two sides: a classifier's part, or channels are last
            found[(side // x.shape[2]).bit_length() - 1] = (child, x.shape[1])
    trunk.train(was_training)
    return found


def _timm(
    name: str, levels: list[int], channels: int, weights: str | None, options: dict[str, Any]
) -> tuple[nn.Module, list[int], Statistics]:
    import timm  # seconds

    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name}*")[:3])
        raise ValueError(f"backbone={TIMM}{name}: timm has no such net{f'; it has {close}' if close else ''}")
    given = {"features_only": True, "in_chans": channels, **options}
    try:
        with torch.random.fork_rng(devices=[]):  # made twice, as only a net tells which of its maps has which stride
            trial: Any = timm.create_model(name, **given)
        maps = trial.feature_info.get_dicts()
        at = {info["reduction"].bit_length() - 1: i for i, info in enumerate(maps)}
        missing = [level for level in levels if level not in at]
        if missing:
            raise ValueError(_no_level(TIMM + name, missing[0], list(at)))
        given |= {"out_indices": tuple(at[level] for level in levels), "pretrained": weights is not None}
        body: Any = timm.create_model(name if weights is None else f"{name}.{weights}", **given)
    except (AssertionError, AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"timm makes no backbone `{name}`: {str(error).partition(chr(10))[0]}") from error
    known = body.pretrained_cfg
    return body, body.feature_info.channels(), None if weights is None else (list(known["mean"]), list(known["std"]))


def _no_level(name: str, level: int, known: list[int]) -> str:
    return f"backbone={name}: it has no map of level {level}; its levels are {', '.join(map(str, sorted(known)))}"
