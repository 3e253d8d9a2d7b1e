"""How well boxes are found, over a whole data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from kdcore_detection.boxes import is_box
from kdcore_detection.histograms import bins_for, counted, precision_of
from kdcore_detection.precision import THRESHOLDS, Precision, Rows, evaluated

if TYPE_CHECKING:
    from kdcore.signals import Batch

    from kdcore_detection.detector import Detections


STATES = (
    "id", "found_each", "found_boxes", "found_scores", "found_labels", "target_each", "target_boxes", "target_labels",
    "target_ignore",
)  # fmt: skip
"""Of an image its id and how many rows it has of either; then these rows, padding among them."""


class AveragePrecision(Metric):
    """COCO's average precision: ``{use: detection.ap}`` is AP, ``{use: detection.ap, iou: 0.5}`` is AP50.

    In [0, 1], more is better: the area under the curve of precision over recall at 101 recalls, the mean over ten
    intersections over union from 0.5 to 0.95 and over the classes that occur. A class of which no image has a
    box is left out. NaN where none has any. Several such metrics over the same detections are evaluated together, once;
    those with another ``max_detections`` once more.

    Boxes in ``box_ignore`` are treated as COCO treats a crowd, also where the data calls them difficult: what lies in
    them is neither right nor wrong. Areas are those of the boxes in the images as the data gives them, so resizing
    changes what is small. COCO itself takes the area of an object's outline.

    Args:
        iou: only at this one, of 0.5, 0.55, ... 0.95.
        of: of one class, by its number.
        area: only boxes of these sizes: ``small`` below 32^2 pixels, ``large`` above 96^2, ``medium`` between.
        max_detections: the best of each class in an image that count.
        classes: how many; filled in from the task.

    Raises:
        ValueError: there is no such threshold or class; fewer than one detection.

    **Paper**: Lin et al., Microsoft COCO, 2014 (arXiv 1405.0312), and its evaluation code, through faster-coco-eval.
    """

    takes: ClassVar[str] = "detections_target"
    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    id: list[Tensor]
    found_each: list[Tensor]
    found_boxes: list[Tensor]
    found_scores: list[Tensor]
    found_labels: list[Tensor]
    target_each: list[Tensor]
    target_boxes: list[Tensor]
    target_labels: list[Tensor]
    target_ignore: list[Tensor]

    def __init__(
        self,
        *,
        classes: int,
        iou: float | None = None,
        of: int | None = None,
        area: Literal["all", "small", "medium", "large"] = "all",
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        if iou is not None and iou not in THRESHOLDS:
            raise ValueError(f"iou={iou}: COCO evaluates at 0.5, 0.55, 0.6, ... 0.95")
        if of is not None and not 0 <= of < classes:
            raise ValueError(f"of={of}: the classes are 0 to {classes - 1}")
        if max_detections < 1:
            raise ValueError(f"max_detections={max_detections} is below 1")
        self.iou, self.of, self.area = iou, of, area
        self.classes, self.max_detections = classes, max_detections
        for name in STATES:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, detections: Detections, batch: Batch) -> None:
        """Add a batch. Nothing is copied: several metrics hold the same detections once.

        Raises:
            ValueError: there are not as many images in both.
        """
        images, most = batch["box_labels"].shape
        if len(detections.scores) != images:
            raise ValueError(f"detections of {len(detections.scores)} images, and boxes of {images}")
        self.id.append(batch["id"])
        self.found_each.append(torch.full_like(batch["id"], detections.scores.shape[1]))
        self.found_boxes.append(detections.boxes.flatten(0, 1))
        self.found_scores.append(detections.scores.flatten())
        self.found_labels.append(detections.labels.flatten())
        self.target_each.append(torch.full_like(batch["id"], most))
        self.target_boxes.append(batch["boxes"].flatten(0, 1))
        self.target_labels.append(batch["box_labels"].flatten())
        ignore = batch["box_ignore"] if "box_ignore" in batch else ~is_box(batch)
        self.target_ignore.append(ignore.flatten())

    def compute(self) -> Tensor:
        value = self.evaluated().mean(iou=self.iou, of=self.of, area=self.area)
        return torch.tensor(value, device=self.device)

    def shares(self, detections: Detections, batch: Batch) -> Tensor | None:
        """What each image adds, for tests between two nets: counts (N, ...), see :mod:`kdcore_detection.histograms`.

        ``None`` where there are too many classes for that (more than 26, or 182 at one ``iou``), or ``area`` is not
        ``all``.
        """
        thresholds = THRESHOLDS if self.iou is None else (self.iou,)
        bins = bins_for(self.classes, len(thresholds))
        if bins is None or self.area != "all":
            return None
        return counted(
            detections,
            batch,
            classes=self.classes,
            thresholds=thresholds,
            bins=bins,
            max_detections=self.max_detections,
        )

    def value_of(self, counts: Tensor) -> Tensor:
        """Sums of shares (..., C, 2T + 1, bins) -> the metric (...), close to :meth:`compute`."""
        precision = precision_of(counts)
        return precision.nanmean(-1) if self.of is None else precision[..., self.of]

    def evaluated(self) -> Precision:
        """The curve of everything seen so far."""
        found = _rows(self.id, self.found_each, self.found_boxes, self.found_labels, self.found_scores)
        target = _rows(self.id, self.target_each, self.target_boxes, self.target_labels, self.target_ignore)
        return evaluated(found, target, classes=self.classes, max_detections=self.max_detections)


def _rows(ids: list[Tensor], counts: list[Tensor], *columns: list[Tensor]) -> Rows:
    """What is no padding, by image, so that the order of batches and ranks changes nothing."""
    image = dim_zero_cat(ids).repeat_interleave(dim_zero_cat(counts))
    boxes, labels, last = (dim_zero_cat(column) for column in columns)
    order = image.argsort(stable=True)
    order = order[labels[order] >= 0]
    return Rows(*(column[order].cpu().numpy() for column in (image, boxes.float(), labels, last)))
