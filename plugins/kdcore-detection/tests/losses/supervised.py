"""The supervised losses of dense detectors, as ``check_loss`` takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dense import outputs
from kdcore.losses.base import Loss

from kdcore_detection.losses.fcos import FCOSLoss
from kdcore_detection.losses.gfl import GFLLoss
from kdcore_detection.losses.retinanet import RetinaNetLoss


def _case(kind: str) -> dict[str, Any]:
    student, batch = outputs(kind, 4)
    return {"student": student, "batch": batch}


CASES: dict[str, tuple[Callable[[], Loss], dict[str, Any]]] = {
    "fcos": (FCOSLoss, _case("fcos")),
    "retinanet": (RetinaNetLoss, _case("retinanet")),
    "gfl": (GFLLoss, _case("gfl")),
}
