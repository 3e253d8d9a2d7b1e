"""What kdcore promises of every loss, checked on each that this plugin registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from kdcore.losses.base import Loss
from kdcore.testing import check_loss, registered, samples
from torch import Tensor, nn

from kdcore_segmentation.losses.cirkd import CrossImage, CrossImageMemory
from kdcore_segmentation.losses.collaboration import SelectivePixels, SelectiveRegions
from kdcore_segmentation.losses.cwd import ChannelWise
from kdcore_segmentation.losses.ifvd import IntraClassVariation
from kdcore_segmentation.losses.perceptual import Perceptual
from kdcore_segmentation.losses.skd import PairWise
from kdcore_segmentation.losses.transkd import CrossSelectiveFusion, PatchEmbeddingAlignment

LOGITS = samples.maps()
FEATURES = samples.maps(signal="feature", channels=(3, 7))
ALIKE = samples.maps(signal="feature", channels=(4, 4))
COARSE = samples.maps(signal="feature", channels=(4, 4), size=(3, 4))
WHOLE = {
    "mask": "the whole map is compared: its docstring says that the mask is not read",
    "padding": "the whole map is compared: its docstring says that the mask is not read",
}


def both(features: dict[str, Any]) -> dict[str, Any]:
    """Features and, at the size of the labels, logits."""
    roles = {role: {**features[role], **LOGITS[role]} for role in ("student", "teacher")}
    return {**LOGITS, **roles}


def stages(student: tuple[int, ...], teacher: tuple[int, ...], *sizes: tuple[int, ...], axis: int) -> dict[str, Any]:
    """Several activations of two samples, with the channels at an axis."""

    def made(channels: tuple[int, ...], seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = zip(sizes, channels, strict=True)
        return {
            f"feature@{i}": torch.randn(2, *size, c, generator=generator).movedim(-1, axis)
            for i, (size, c) in enumerate(shapes)
        }

    return {"student": made(student, 1), "teacher": made(teacher, 2)}


class Judge(nn.Module):
    """A frozen net that looks at images of two channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))


MEMORY = {"pixel_queue": 300, "region_queue": 40, "pixel_contrast": 30, "region_contrast": 10}
CASES: dict[str, tuple[Callable[[], Loss], dict[str, Any]]] = {
    "cwd": (ChannelWise, LOGITS),
    "skd": (PairWise, {**FEATURES, "skip": WHOLE}),
    "ifvd": (partial(IntraClassVariation, classes=5), FEATURES),
    "cirkd": (partial(CrossImage, patch=2), {**FEATURES, "skip": WHOLE}),
    "cirkd_memory": (
        partial(CrossImageMemory, classes=5, **MEMORY),
        {
            **FEATURES,
            "skip": {
                "order": "which pixels are put into memory, and drawn from it, is drawn at random",
                "additive": "all pixels are compared with a memory of the whole batch",
                "mask": "the part that is trained normalises over all positions (BatchNorm)",
                "padding": "the part that is trained normalises over all positions (BatchNorm)",
            },
        },
    ),
    "pea": (
        partial(PatchEmbeddingAlignment, weights=(0.5, 1.0)),
        stages((4, 6), (5, 7), (16,), (4,), axis=-1),
    ),
    "csf": (
        partial(CrossSelectiveFusion, width=10),
        {
            **stages((4, 6), (5, 7), (8, 6), (4, 3), axis=1),
            "skip": {"additive": "the parts that are trained normalise over the batch (BatchNorm)"},
        },
    ),
    "collaboration_pixel": (SelectivePixels, LOGITS),
    "collaboration_region": (
        partial(SelectiveRegions, grid=2),
        {**both(ALIKE), "skip": dict.fromkeys(("mask", "padding"), "a region is taught as a whole")},
    ),
    "collaboration_region: coarse": (partial(SelectiveRegions, grid=2), both(COARSE)),
    "perceptual": (
        partial(Perceptual, layers=["encoder.0", "encoder.2"], channels=2),
        {**ALIKE, "models": {"judge": Judge()}, "skip": WHOLE},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_what_a_loss_promises(name: str):
    make, given = CASES[name]
    check_loss(make, **{**given, "skip": {**given.get("skip", {}), "compile": "takes long, and is tested below"}})


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_compiles(name: str):
    make, given = CASES[name]
    check_loss(make, **given, only=["compile"])


def test_no_loss_is_forgotten():
    assert {name.partition(":")[0]: type(make()) for name, (make, _) in CASES.items()} == registered(
        "segmentation", "loss"
    )
