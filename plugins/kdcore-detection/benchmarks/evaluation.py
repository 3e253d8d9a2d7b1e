"""What average precision costs beyond inference: 1,000 images of 100 boxes each, found and to be found.

    python benchmarks/evaluation.py [--images 1000] [--boxes 100] [--classes 80] [--rounds 3]

Detections are given in batches, as a validation loop gives them. Prints the median of each part in seconds, of the
whole with one metric and with six, and what a test with one seed adds (`shares`), where there are not too many classes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import torch
from torch import Tensor

from kdcore_detection import metrics, precision
from kdcore_detection.detector import Detections
from kdcore_detection.metrics import AveragePrecision

BATCH = 16
SIDE = 640

SIX: list[dict[str, object]] = [
    {},
    {"iou": 0.5},
    {"iou": 0.75},
    {"area": "small"},
    {"area": "medium"},
    {"area": "large"},
]


def batches(images: int, boxes: int, classes: int) -> list[tuple[Detections, dict[str, Tensor]]]:
    """Boxes of all sizes; half of the detections lie near one, the others anywhere."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    made = []
    for start in range(0, images, BATCH):
        n = min(BATCH, images - start)
        corner, sides = rand(n, boxes, 2) * SIDE, rand(n, boxes, 2) ** 2 * 200 + 4
        there = torch.cat([corner, corner + sides], -1)
        labels = torch.randint(classes, (n, boxes), generator=generator)
        near = there + torch.randn(there.shape, generator=generator) * 4
        anywhere = there[:, torch.randperm(boxes, generator=generator)] + 30
        is_near = rand(n, boxes, 1) < 0.5
        found = torch.where(is_near, near, anywhere)
        found[..., 2:] = torch.maximum(found[..., 2:], found[..., :2] + 1)
        scores = rand(n, boxes).sort(descending=True).values
        batch = {"boxes": there, "box_labels": labels, "id": torch.arange(start, start + n)}
        made.append((Detections(found, scores, labels), batch))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--boxes", type=int, default=100)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    given = batches(options.images, options.boxes, options.classes)
    times: dict[str, list[float]] = defaultdict(list)

    def timed(part: str, start: float) -> None:
        times[part].append(time.perf_counter() - start)

    for _ in range(options.rounds):
        for name, parameters in (("one metric", [{}]), ("six metrics", SIX)):
            precision._last.clear()
            whole = time.perf_counter()
            several = [AveragePrecision(classes=options.classes, **one) for one in parameters]  # type: ignore[arg-type]
            for metric in several:
                for detections, batch in given:
                    metric.update(detections, batch)
            timed(f"{name}: update", whole)
            start = time.perf_counter()
            values = [float(metric.compute()) for metric in several]
            timed(f"{name}: compute", start)
            timed(f"{name}: all", whole)
        metric = several[0]
        start = time.perf_counter()
        found = metrics._rows(
            metric.id, metric.found_each, metric.found_boxes, metric.found_labels, metric.found_scores
        )
        timed("  of which: rows of one side", start)
        start = time.perf_counter()
        found.digest()
        timed("  of which: digest of one side", start)
        start = time.perf_counter()
        precision._annotations(found, "score", torch.arange(options.classes).numpy())
        timed("  of which: dictionaries of one side", start)
        start = time.perf_counter()
        if metric.shares(*given[0]) is not None:
            for detections, batch in given:
                metric.shares(detections, batch)
            timed("shares, for a test with one seed", start)
    for part, seconds in times.items():
        print(f"{part:42} {statistics.median(seconds):7.3f} s")
    print(f"AP {values[0]:.4f}, AP50 {values[1]:.4f}; torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
