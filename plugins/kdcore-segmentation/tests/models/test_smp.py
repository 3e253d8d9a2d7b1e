from __future__ import annotations

from typing import Any

import pytest
import torch
from kdcore.taps import Taps

from kdcore_segmentation.models.smp import smp

SMALL = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}


def test_raw_logits_in_both_modes():
    torch.manual_seed(0)
    net = smp(arch="unet", encoder="resnet18", classes=5, options=SMALL)
    image = torch.rand(2, 3, 32, 48)
    for mode in (True, False):
        logits = net.train(mode)(image)
        assert logits.shape == (2, 5, 32, 48)
        assert logits.requires_grad
        assert logits.min() < 0  # no sigmoid, no softmax


def test_channels_are_the_image_s():
    assert smp(classes=2, channels=1, options=SMALL)(torch.rand(1, 1, 32, 32)).shape == (1, 2, 32, 32)


def test_any_encoder_of_timm():
    net = smp(encoder="tu-mobilenetv3_small_050", classes=2, options=SMALL)
    assert net.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_what_the_architecture_does_not_know_is_timm_s():
    def parameters(**more: Any) -> int:
        options = {"encoder_depth": 3, "decoder_channels": [16, 8, 8], **more}
        return sum(p.numel() for p in smp(encoder="tu-resnet18", classes=2, options=options).parameters())

    assert parameters(channels=[16, 32, 64, 128]) < parameters() / 4


def test_parts_can_be_tapped():
    net = smp(encoder="resnet18", classes=2, options=SMALL).eval()
    taps = Taps(net, {"deep": "encoder.layer2", "last": "encoder/3", "decoded": "decoder"}, "net")
    with taps.armed():
        net(torch.rand(1, 3, 32, 32))
    shapes = {name: tuple(found.shape) for name, found in taps.take().items()}
    assert shapes == {"tap.deep": (1, 128, 4, 4), "tap.last": (1, 128, 4, 4), "tap.decoded": (1, 8, 32, 32)}


def test_nothing_is_fetched_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    import segmentation_models_pytorch

    seen: list[Any] = []
    made = segmentation_models_pytorch.create_model
    monkeypatch.setattr(
        segmentation_models_pytorch,
        "create_model",
        lambda *args, encoder_weights, **keys: (
            seen.append(encoder_weights) or made(*args, encoder_weights=None, **keys)
        ),
    )
    monkeypatch.setattr(
        segmentation_models_pytorch.encoders,
        "get_preprocessing_params",
        lambda encoder, weights: seen.append((encoder, weights)) or PARAMS,
    )
    assert not hasattr(smp(classes=2, options=SMALL), "input_mean")
    assert seen == [None]
    net = smp(classes=2, encoder_weights="imagenet", options=SMALL)
    assert seen[1:] == ["imagenet", ("resnet18", "imagenet")]
    torch.testing.assert_close(net.input_mean, torch.tensor([0.2, 0.4, 0.6]))
    torch.testing.assert_close(net.input_std, torch.tensor([1.0, 0.5, 0.2]))


PARAMS = {"mean": [51, 102, 153], "std": [255, 127.5, 51], "input_range": [0, 255]}
"""Statistics of pixels from 0 to 255, which are 0 to 1 here."""


def test_a_size_that_does_not_fit_is_said_in_a_recipe_s_words():
    net = smp(arch="fpn", encoder="resnet18", classes=2)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        net(torch.rand(1, 3, 45, 60))
    assert str(error.value) == (
        "the image is 45x60, and this FPN takes multiples of 32: set `size` of the data (or of the crop) to [32, 64], "
        "or use the architecture `unet`, which takes every size"
    )
    assert net.eval()(torch.rand(1, 3, 32, 64)).shape == (1, 2, 32, 64)


def test_unet_takes_every_size():
    assert smp(classes=2, options=SMALL).eval()(torch.rand(1, 3, 45, 61)).shape[2:] == (45, 61)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("activation", "softmax2d", "raw logits are needed; `export` puts the softmax on"),
        ("aux_params", {"classes": 3}, "a second output would hide the logits"),
        ("encoder_weights", "imagenet", "the parameter of that name is meant for it"),
        ("encoder_name", "vgg11", "the parameter `encoder` is meant for it"),
        ("in_channels", 1, "the parameter `channels` is meant for it"),
        ("classes", 3, "the parameter of that name is meant for it"),
    ],
)
def test_options_that_are_refused(name: str, value: Any, why: str):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        smp(classes=2, options={name: value})
    assert str(error.value) == f"options.{name}: {why}"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"arch": "yunet"}, "makes no `yunet` with the encoder `resnet18`: Wrong architecture type `yunet`"),
        ({"encoder": "resnet19"}, "makes no `unet` with the encoder `resnet19`: Wrong encoder name `resnet19`"),
        ({"encoder": "tu-nothing"}, "makes no `unet` with the encoder `tu-nothing`: "),
        ({"encoder_weights": "mars"}, "makes no `unet` with the encoder `resnet18`: Wrong pretrained weights `mars`"),
        (
            {"options": {"decoder_chanels": [1]}},
            r"options\.decoder_chanels: Unet with the encoder `resnet18` has no such",
        ),
        (
            {"encoder": "tu-resnet18", "options": {"chanels": [1]}},
            "makes no `unet` with the encoder `tu-resnet18`: .*chanels",
        ),
    ],
)
def test_names_that_the_library_does_not_know(keys: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        smp(classes=2, **keys)
