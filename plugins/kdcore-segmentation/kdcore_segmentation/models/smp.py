"""Any net of segmentation-models-pytorch, by the names of its architecture and encoder."""

from __future__ import annotations

import inspect
from typing import Any

from kdcore.task import set_input_statistics
from torch import Tensor, nn

REFUSED = {
    "activation": "raw logits are needed; `export` puts the softmax on",
    "aux_params": "a second output would hide the logits",
    "encoder_weights": "the parameter of that name is meant for it",
    "encoder_name": "the parameter `encoder` is meant for it",
    "in_channels": "the parameter `channels` is meant for it",
    "classes": "the parameter of that name is meant for it",
}
"""Options that are not passed on, and why."""


def smp(
    *,
    arch: str = "unet",
    encoder: str = "resnet18",
    classes: int,
    channels: int = 3,
    encoder_weights: str | None = None,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """A net of segmentation-models-pytorch: `encoder`, `decoder`, `segmentation_head`.

    Image (N, channels, H, W) -> logits (N, classes, H, W). The parts can be tapped: ``encoder.layer3``, ``encoder/5``
    (the last of the encoder's list of maps), ``decoder``. Most architectures take only sizes that are multiples of the
    encoder's stride, 32 if ``options`` say nothing else; ``unet`` takes every size.

    Args:
        arch: ``unet``, ``unetplusplus``, ``manet``, ``linknet``, ``fpn``, ``pspnet``, ``pan``, ``deeplabv3``,
            ``deeplabv3plus``, ``upernet``, ``segformer`` or ``dpt``.
        encoder: an encoder's name, such as ``resnet34`` or ``mobilenet_v2``; with ``tu-`` before it, any of timm's.
        classes: number of classes; filled in from the task.
        channels: of the image; filled in from the data.
        encoder_weights: pretrained weights such as ``imagenet``, fetched from the hub when the model is made; none by
            default, so that nothing is fetched. The ``mean`` and ``std`` they were trained with come along.
        options: further keywords of the architecture, such as ``encoder_depth`` and ``decoder_channels``; what it does
            not know goes to timm, where the encoder is timm's: ``{channels: [16, 32, 64, 128]}`` makes a slim ResNet.

    Raises:
        ValueError: no such architecture, encoder or weights; an option it does not know; an image of another size.
    """
    given = options or {}
    for name, why in REFUSED.items():
        if name in given:
            raise ValueError(f"options.{name}: {why}")
    import segmentation_models_pytorch  # seven seconds

    try:
        net: nn.Module = segmentation_models_pytorch.create_model(
            arch, encoder_name=encoder, encoder_weights=encoder_weights, in_channels=channels, classes=classes, **given
        )
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        reason = str(error.args[0]).partition("\n")[0] if error.args else type(error).__name__
        raise ValueError(
            f"segmentation-models-pytorch makes no `{arch}` with the encoder `{encoder}`: {reason}"
        ) from error
    if encoder_weights is not None:
        _remember_statistics(
            net, segmentation_models_pytorch.encoders.get_preprocessing_params(encoder, encoder_weights)
        )
    unknown = sorted(set(given) - set(inspect.signature(type(net)).parameters))
    if unknown and not encoder.startswith("tu-"):  # timm's encoders are handed the rest; others swallow it in silence
        raise ValueError(f"options.{unknown[0]}: {type(net).__name__} with the encoder `{encoder}` has no such option")
    if getattr(net, "requires_divisible_input_shape", False):
        net.register_forward_pre_hook(_check_size)
    return net


def _remember_statistics(net: nn.Module, params: dict[str, Any]) -> None:
    """The library tells them for its own range of pixels; ours is [0, 1]."""
    largest = (params.get("input_range") or [0, 1])[1]
    mean, std = ([float(value) / largest for value in params[key]] for key in ("mean", "std"))
    set_input_statistics(net, mean, std)


def _check_size(net: nn.Module, args: tuple[Any, ...]) -> None:
    """Say in a recipe's words what the net would refuse in its own."""
    image: Tensor = args[0]
    height, width = image.shape[-2:]
    stride = int(net.encoder.output_stride)  # type: ignore[union-attr, arg-type]
    if height % stride or width % stride:
        fitting = [max(1, round(side / stride)) * stride for side in (height, width)]
        raise ValueError(
            f"the image is {height}x{width}, and this {type(net).__name__} takes multiples of {stride}: set `size` of "
            f"the data (or of the crop) to {fitting}, or use the architecture `unet`, which takes every size"
        )
