"""What kdcore promises of every loss, checked on those of set detectors and of detectors in two stages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from kdcore.losses.base import Loss
from kdcore.testing import check_loss
from set_scene import CLASSES, SIZE, said, scene
from small_sets import small_detr
from tiny import task
from torch import Tensor
from two_stages import objects, opinionated, two_stages

from kdcore_detection.losses.detr_distill import HungarianLogits, QueryPrior, TargetAwareFeatures
from kdcore_detection.losses.faster_rcnn import FasterRCNNLoss
from kdcore_detection.losses.lpld import LPLD
from kdcore_detection.losses.set import SetPrediction

DRAWN = dict.fromkeys(("order", "additive"), "what is sampled is drawn for each place in the batch")
CHOSEN = {"device": "the teacher chooses its boxes by non-maximum suppression, which waits for the device once"}


def two(role: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: role[name] for name in names}


def set_case(classes: int) -> dict[str, Any]:
    return {"student": two(said(1, classes=classes), "layer_logits", "layer_boxes"), "batch": scene()}


def pair_case(classes: int) -> dict[str, Any]:
    teacher = two(said(2, classes=classes), "layer_logits", "layer_boxes")
    return {**set_case(classes), "teacher": teacher}


def feature_case(channels: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    teacher = {
        "memory": torch.randn(3, 5, 4, 6, generator=generator),
        "queries": torch.randn(3, 6, 5, generator=generator),
        **two(said(2), "logits", "boxes"),
    }
    student = {"memory": torch.randn(3, channels, 4, 6, generator=generator)}
    return {"student": student, "teacher": teacher, "batch": scene()}


def query_case() -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        nets: Any = {"student": small_detr().eval(), "teacher": small_detr(options={"d_model": 24}).eval()}
        batch = {**scene(), "image": torch.rand(3, 3, *SIZE)}
        ours, theirs = (nets[role](batch["image"]) for role in ("student", "teacher"))
    return {"student": two(ours, "memory"), "teacher": two(theirs, "logits", "boxes"), "batch": batch, "models": nets}


def region_case(loss: type[Loss]) -> dict[str, Any]:
    batch = objects()
    teacher = opinionated(two_stages(score_threshold=0.3), batch["image"]).eval()
    student = copy.deepcopy(teacher)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for weight in student.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        signals = {"student": task().signals(student, batch, {}), "teacher": task().signals(teacher, batch, {})}
    read = {
        role: {name: x for name, x in every.items() if f"{role}.{name}" in loss.needs}
        for role, every in signals.items()
    }
    models = {"student": student, "teacher": teacher}
    return {**{role: found for role, found in read.items() if found}, "batch": batch, "models": models}


CASES: dict[str, tuple[Callable[[], Loss], Callable[[], dict[str, Any]]]] = {
    "set: softmax": (partial(SetPrediction, classes=CLASSES), partial(set_case, CLASSES + 1)),
    "set: varifocal": (partial(SetPrediction, classes=CLASSES), partial(set_case, CLASSES)),
    "set: focal": (partial(SetPrediction, classes=CLASSES, sigmoid="focal"), partial(set_case, CLASSES)),
    "detr_logits: softmax": (partial(HungarianLogits, classes=CLASSES), partial(pair_case, CLASSES + 1)),
    "detr_logits: sigmoids": (partial(HungarianLogits, classes=CLASSES), partial(pair_case, CLASSES)),
    "detr_features": (partial(TargetAwareFeatures, classes=CLASSES), partial(feature_case, 5)),
    "detr_features: other channels": (partial(TargetAwareFeatures, classes=CLASSES), partial(feature_case, 3)),
    "detr_queries": (partial(QueryPrior, classes=CLASSES), query_case),
    "faster_rcnn": (FasterRCNNLoss, partial(region_case, FasterRCNNLoss)),
    "lpld": (partial(LPLD, sure=0.6, clear=0.5, background=0.9), partial(region_case, LPLD)),
}
SKIPPED: dict[str, dict[str, str]] = {
    "faster_rcnn": DRAWN,
    "lpld": {**DRAWN, **CHOSEN},
}


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_what_a_loss_promises(name: str):
    make, given = CASES[name]
    skip = {**SKIPPED.get(name, {}), "compile": "takes long, and is tested below"}
    check_loss(make, **given(), skip=skip)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_compiles(name: str):
    make, given = CASES[name]
    check_loss(make, **given(), only=["compile"])
