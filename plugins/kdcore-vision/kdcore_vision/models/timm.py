"""Any net of timm, by its name."""

from __future__ import annotations

from typing import Any

from kdcore.errors import did_you_mean
from kdcore.task import set_input_statistics
from torch import nn

REFUSED = {
    "num_classes": "the parameter `classes` is meant for it",
    "in_chans": "the parameter `channels` is meant for it",
    "img_size": "the parameter `size` is meant for it",
    "pretrained": "the parameter of that name is meant for it",
    "checkpoint_path": "the key `weights` of the slot is meant for it",
    "pretrained_cfg": "the keys `weights`, `mean` and `std` of the slot are meant for it",
    "features_only": "a classifier is needed; taps give features",
}
"""Options that are not passed on, and why."""

LIST = "`python -c 'import timm; print(timm.list_models())'` lists all of them"


def timm(
    *,
    name: str,
    classes: int,
    channels: int = 3,
    size: tuple[int, int] | None = None,
    pretrained: bool = False,
    class_names: list[str] | None = None,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """A net of timm, with timm's own names of its tensors, so that checkpoints fit both ways.

    Image (N, channels, H, W) -> logits (N, classes). It is normalised with the mean and std that timm's configuration
    of the net names (their average, where the picture has one channel), unless the slot has ``mean`` and ``std``.

    Args:
        name: a net's name, such as ``resnet50`` or ``mobilenetv3_small_050``, perhaps with the tag of its weights:
            ``resnet50.a1_in1k``.
        classes: number of classes; filled in from the task.
        channels: of the image; filled in from the data.
        size: [height, width] that this net sees; pictures are resized to it. By default a net that takes one size only
            (most transformers) has that of timm's configuration, and all others see pictures as the data gives them.
        pretrained: fetch the weights that timm knows; with False nothing is fetched. Your own are for ``weights``.
        class_names: the names of its outputs, in order, as it was trained; filled in from the data. Where they are
            given and are not those of the data, the run stops.
        options: further keywords of the net, such as ``drop_path_rate``.

    Raises:
        ValueError: no such net, an option it does not know, a size it does not take, or another number of names.
    """
    given = dict(options or {})
    for option, why in REFUSED.items():
        if option in given:
            raise ValueError(f"options.{option}: {why}")
    if class_names is not None and len(class_names) != classes:
        raise ValueError(f"class_names has {len(class_names)} names, and there are {classes} classes")
    if size is not None and min(size) < 1:
        raise ValueError(f"size={list(size)}: give [height, width] in pixels")
    net, config = _made(name, classes, channels, size, pretrained, given)
    mean, std = list(config.mean), list(config.std)
    if channels not in (1, len(mean)):
        mean = std = []  # nobody knows those of other channels
    elif channels == 1:
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    set_input_statistics(net, mean or None, std or None)
    net.image_size = _own_size(size, config)  # type: ignore[assignment]
    net.class_names = class_names  # type: ignore[assignment]
    return net


def _made(
    name: str, classes: int, channels: int, size: tuple[int, int] | None, pretrained: bool, given: dict[str, Any]
) -> tuple[nn.Module, Any]:
    """The net and timm's configuration of it."""
    from timm import create_model, is_model, list_models  # a second
    from timm.models import get_pretrained_cfg

    if not is_model(name):
        close = did_you_mean(name.partition(".")[0], list_models())
        raise ValueError(f"name={name}: timm has no such net; {close if close.startswith('did') else LIST}")
    config: Any = get_pretrained_cfg(name)
    if size is not None and config.fixed_input_size:
        given["img_size"] = tuple(size)
    try:
        net: nn.Module = create_model(name, pretrained=pretrained, num_classes=classes, in_chans=channels, **given)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error.args[0]).partition("\n")[0] if error.args else type(error).__name__
        raise ValueError(f"timm makes no `{name}` with these settings: {reason}") from error
    return net, config


def _own_size(size: tuple[int, int] | None, config: Any) -> tuple[int, int] | None:
    if size is not None:
        return size[0], size[1]
    if config.fixed_input_size:
        return config.input_size[1], config.input_size[2]
    return None
