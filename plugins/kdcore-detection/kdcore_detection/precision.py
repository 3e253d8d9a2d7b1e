"""Average precision as COCO defines it, through faster-coco-eval: arrays in, precision at every recall out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Intersections over union at which COCO evaluates."""

RECALLS = 101

AREAS = ("all", "small", "medium", "large")
"""Whole range, below 32^2, between, and above 96^2 pixels."""


@dataclass(frozen=True)
class Rows:
    """Boxes of many images, one a row.

    Attributes:
        image: int64 (R,), whose box it is.
        boxes: float (R, 4), left, top, right, bottom.
        labels: int64 (R,).
        last: of detections the score, float (R,); of targets whether to ignore it, bool (R,).
    """

    image: Array
    boxes: Array
    labels: Array
    last: Array

    def digest(self) -> bytes:
        """Equal for equal content."""
        found = hashlib.blake2b(digest_size=16)
        for column in (self.image, self.boxes, self.labels, self.last):
            found.update(f"{column.dtype}{column.shape}".encode())
            found.update(np.ascontiguousarray(column).data)
        return found.digest()


@dataclass(frozen=True)
class Precision:
    """What an evaluation found.

    Attributes:
        precision: float (T, R, K, A): at each of ``THRESHOLDS`` and each of 101 recalls, by class and area; -1 where a
            class has nothing to be found.
    """

    precision: Array

    def mean(self, *, iou: float | None = None, of: int | None = None, area: str = "all") -> float:
        """Mean over thresholds and recalls, and over the classes that occur; NaN where none does."""
        chosen = self.precision[..., AREAS.index(area)]
        if iou is not None:
            chosen = chosen[[THRESHOLDS.index(iou)]]
        if of is not None:
            chosen = chosen[:, :, [of]]
        there = chosen[chosen > -1]
        return float(there.mean()) if there.size else float("nan")


_last: dict[tuple[bytes, bytes, int, int], Precision] = {}
"""The last evaluation, so that several metrics of one set of detections evaluate once."""


def evaluated(found: Rows, target: Rows, *, classes: int, max_detections: int) -> Precision:
    """Evaluate detections against targets, or give what was found for this very input the last time.

    Images without a row in either play no part, as in COCO's own code.
    """
    key = (found.digest(), target.digest(), classes, max_detections)
    if key not in _last:
        result = _evaluate(found, target, classes, max_detections)
        _last.clear()
        _last[key] = result
    return _last[key]


def _evaluate(found: Rows, target: Rows, classes: int, max_detections: int) -> Precision:
    # a class that is nowhere to be found has no value, whatever was found of it
    present = np.unique(target.labels)
    precision = np.full((len(THRESHOLDS), RECALLS, classes, len(AREAS)), -1.0)
    if len(present):
        precision[:, :, present] = _curves(found, target, present, max_detections)
    return Precision(precision)


def _curves(found: Rows, target: Rows, present: Array, max_detections: int) -> Array:
    """(T, R, number of classes present, A)."""
    from faster_coco_eval import COCO, COCOeval_faster

    images = [{"id": image} for image in np.union1d(found.image, target.image).tolist()]
    shared = {"images": images, "categories": [{"id": label, "name": str(label)} for label in present.tolist()]}
    sides: list[Any] = []
    for rows, name in ((target, "iscrowd"), (found, "score")):
        side = COCO()
        side.dataset = {**shared, "annotations": _annotations(rows, name, present)}
        side.createIndex()
        sides.append(side)
    evaluation = COCOeval_faster(*sides, "bbox", print_function=_silent)
    evaluation.params.maxDets = [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., 0]


def _annotations(rows: Rows, name: str, present: Array) -> list[dict[str, Any]]:
    """COCO's dictionaries, numbered from 1, because 0 means unmatched there."""
    kept = np.isin(rows.labels, present)
    boxes = rows.boxes[kept].astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    columns = (
        rows.image[kept].tolist(),
        rows.labels[kept].tolist(),
        np.concatenate([boxes[:, :2], sides], 1).tolist(),
        sides.prod(1).tolist(),
        rows.last[kept].astype(np.float64 if name == "score" else np.int64).tolist(),
    )
    return [
        {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": area, name: last}
        for number, (image, label, box, area, last) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _silent(*_: object) -> None:
    """The library prints its progress."""
