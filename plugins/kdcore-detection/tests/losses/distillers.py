"""What the promises of the distillers are checked on: for each its factory and the arguments of ``check_loss``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tiny
import torch
from kdcore.losses.base import Loss
from kdcore.testing import samples
from scene import boxes_batch, feature_map
from test_crosskd import nets, run
from torch import nn

from kdcore_detection.losses.acam import AdaptiveMasking
from kdcore_detection.losses.bckd import BinaryClassification
from kdcore_detection.losses.crosskd import CrossHeadBoxes, CrossHeadClasses, CrossHeadDistribution
from kdcore_detection.losses.fgd import FocalGlobal
from kdcore_detection.losses.ld import LocalizationDistillation
from kdcore_detection.losses.sad import Sparsity, SpatialAttention


def features(ours: int = 4, theirs: int = 4) -> dict[str, Any]:
    return {
        "student": {"feature": feature_map(1, ours)},
        "teacher": {"feature": feature_map(2, theirs)},
        "batch": boxes_batch(),
    }


def heads(kind: str, branch: str) -> dict[str, Any]:
    """Maps from inside a student's head, and the teacher."""
    batch = tiny.batch()
    student, teacher = nets(kind, width=8)
    given = {"student": run(student, batch, branch=branch), "teacher": run(teacher, batch, branch=branch)}
    kept = {role: {name: x.detach() for name, x in signals.items()} for role, signals in given.items()}
    return {**kept, "batch": batch, "models": {"student": student, "teacher": teacher}}


def distributions() -> dict[str, Any]:
    given = heads("gfl", "box")
    for role, seed in (("student", 1), ("teacher", 2)):
        shape = given[role]["distribution"].shape
        given[role]["distribution"] = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    # the student is asked for its geometry, and gets no gradient of its own
    return {**given, "models": {"student": given["models"]["student"]}}


def dense() -> dict[str, Any]:
    sample = samples.boxes()
    return {role: sample[role] for role in ("student", "teacher")}


BATCH_STATISTICS = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
WEIGHTS_ALONE = {"compile": "the check differentiates by signals, and this loss reads weights"}
ONE_LAYER = {"layer": 1}
CASES: dict[str, tuple[Callable[[], Loss], dict[str, Any]]] = {
    "fgd": (FocalGlobal, features()),
    "fgd: other channels": (FocalGlobal, features(3, 6)),
    "acam": (AdaptiveMasking, features()),
    "acam: other channels": (AdaptiveMasking, features(3, 6)),
    "sad": (SpatialAttention, features(3, 6)),
    "sad: equal channels": (SpatialAttention, features()),
    "sparsity": (Sparsity, {**features(), "models": {"student": BATCH_STATISTICS}, "skip": WEIGHTS_ALONE}),
    "ld": (LocalizationDistillation, distributions()),
    "bckd": (BinaryClassification, dense()),
    "crosskd": (partial(CrossHeadClasses, **ONE_LAYER), heads("fcos", "class")),
    "crosskd_boxes": (partial(CrossHeadBoxes, **ONE_LAYER), heads("retinanet", "box")),
    "crosskd_boxes: distances": (partial(CrossHeadBoxes, **ONE_LAYER), heads("fcos", "box")),
    "crosskd_distribution": (partial(CrossHeadDistribution, **ONE_LAYER), heads("gfl", "box")),
}
