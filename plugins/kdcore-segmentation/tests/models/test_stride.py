from __future__ import annotations

from typing import Any

import pytest

from kdcore_segmentation.models.stride import stride


@pytest.mark.parametrize(
    ("arch", "options", "expected"),
    [
        ("fpn", {}, 32),
        ("FPN", {"encoder_depth": 4}, 16),
        ("linknet", {}, 32),
        ("pspnet", {}, 8),
        ("deeplabv3", {}, 8),
        ("deeplabv3plus", {}, 16),
        ("deeplabv3plus", {"encoder_output_stride": 8}, 8),
        ("pan", {}, 16),
        ("unet", {}, None),
        ("unet", {"encoder_depth": 3}, None),
        ("dpt", {}, None),
    ],
)
def test_multiples(arch: str, options: dict[str, Any], expected: int | None):
    assert stride(arch, options) == expected


def test_an_option_of_a_wrong_type_is_left_to_the_library():
    assert stride("fpn", {"encoder_depth": "deep"}) == 32
    assert stride("fpn", {"encoder_output_stride": None}) == 32


@pytest.mark.parametrize(
    "arch",
    ["unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "pan", "upernet"],
)
def test_the_table_says_what_the_nets_themselves_say(arch: str):
    smp = pytest.importorskip("segmentation_models_pytorch")
    net = smp.create_model(arch, encoder_name="resnet18", encoder_weights=None, classes=2)
    wanted = net.encoder.output_stride if net.requires_divisible_input_shape else None
    assert stride(arch, {}) == wanted
