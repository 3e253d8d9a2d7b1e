"""COCO's average precision in plain loops, written from its description: what the tests hold the metric against."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

Box = tuple[float, float, float, float]

SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


@dataclass
class Picture:
    """Boxes to be found (box, class, ignore), and boxes that were found (box, class, score)."""

    target: list[tuple[Box, int, bool]] = field(default_factory=list)
    found: list[tuple[Box, int, float]] = field(default_factory=list)


def area_of(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(found: Box, target: Box, is_crowd: bool) -> float:
    width = min(found[2], target[2]) - max(found[0], target[0])
    height = min(found[3], target[3]) - max(found[1], target[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / area_of(found) if is_crowd else both / (area_of(found) + area_of(target) - both)


def slow_ap(pictures: list[Picture], classes: int, threshold: float, size: str = "all", most: int = 100) -> list[float]:
    """Of each class; NaN where there is nothing to be found."""
    return [_of_class(pictures, label, threshold, SIZES[size], most) for label in range(classes)]


def mean_ap(pictures: list[Picture], classes: int, size: str = "all", most: int = 100) -> float:
    """Over ten thresholds and the classes that occur."""
    values = [
        value
        for step in range(10)
        for value in slow_ap(pictures, classes, 0.5 + 0.05 * step, size, most)
        if not math.isnan(value)
    ]
    return sum(values) / len(values) if values else math.nan


def _of_class(pictures: list[Picture], label: int, threshold: float, size: tuple[float, float], most: int) -> float:
    outcomes: list[tuple[float, bool]] = []
    objects = 0
    for picture in pictures:
        target = [(box, ignore or not size[0] <= area_of(box) <= size[1], ignore)
                  for box, kind, ignore in picture.target if kind == label]  # fmt: skip
        objects += sum(not ignored for _, ignored, _ in target)
        taken: set[int] = set()
        found = sorted((f for f in picture.found if f[1] == label), key=lambda f: -f[2])[:most]
        for box, _, score in found:
            best, at = threshold - 1e-10, None
            for wanted in (True, False):  # first what is to be found; only then what is ignored
                if at is not None:
                    break
                for k, (other, ignored, crowd) in enumerate(target):
                    if ignored == wanted or (k in taken and not crowd):
                        continue
                    value = overlap(box, other, crowd)
                    if value >= best:
                        best, at = value, k
            if at is None:
                if size[0] <= area_of(box) <= size[1]:
                    outcomes.append((score, False))
                continue
            taken.add(at)
            if not target[at][1]:
                outcomes.append((score, True))
    if not objects:
        return math.nan
    outcomes.sort(key=lambda outcome: -outcome[0])
    right, curve = 0, []
    for count, (_, is_right) in enumerate(outcomes, start=1):
        right += is_right
        curve.append((right / objects, right / count))
    total = 0.0
    for step in range(101):
        reached = [precision for recall, precision in curve if recall >= step / 100 - 1e-12]
        total += max(reached, default=0.0)
    return total / 101
