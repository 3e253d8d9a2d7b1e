"""Metrics of a whole data set, from one confusion matrix: not means over images, which depend on the batches."""

from __future__ import annotations

from typing import ClassVar

import torch
from kdcore.metrics.accuracy import check_labels
from kdcore.signals import IGNORE
from torch import Tensor
from torchmetrics import Metric


class Confusion(Metric):
    """Counts pixels by their label (row) and the class that the net gives them (column).

    A label of -100 does not count. Other labels outside the classes are an error, on the CPU at least: a GPU says so
    later, in its own words, because nothing here waits for it.

    Args:
        classes: how many; filled in from the task.
        class_axis: where the classes are in the logits; filled in from the task.

    Raises:
        ValueError: labels or logits do not fit.
    """

    takes: ClassVar[str] = "preds_target"
    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    matrix: Tensor

    def __init__(self, *, classes: int, class_axis: int = 1) -> None:
        super().__init__()
        self.classes, self.class_axis = classes, class_axis
        self.add_state("matrix", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: logits (N, C, H, W), or with classes elsewhere, and integer labels without the class axis."""
        cells = self._cells(preds, target).flatten()
        size = self.classes**2
        # bincount would wait for a GPU to tell the largest entry
        counts = torch.zeros(size + 1, dtype=torch.int64, device=cells.device)
        self.matrix = self.matrix + counts.index_add(0, cells, torch.ones_like(cells))[1:].view_as(self.matrix)

    def compute(self) -> Tensor:
        return self.value_of(self.matrix)

    def value_of(self, matrix: Tensor) -> Tensor:
        """The metric of a confusion matrix (..., classes, classes) -> (...)."""
        raise NotImplementedError

    def shares(self, preds: Tensor, target: Tensor) -> Tensor:
        """The matrix of each sample, for tests between two nets: int32 (N, classes, classes); keeps no state."""
        size = self.classes**2
        cells = self._cells(preds, target).flatten(1)
        counts = torch.zeros(len(cells), size + 1, dtype=torch.int32, device=cells.device)
        added = counts.scatter_add(1, cells, torch.ones_like(cells, dtype=torch.int32))[:, 1:]
        return added.reshape(-1, self.classes, self.classes)

    def _cells(self, preds: Tensor, target: Tensor) -> Tensor:
        """Which cell of the matrix each position belongs to, from 1 on; 0 for none."""
        if preds.shape[self.class_axis] != self.classes:
            raise ValueError(
                f"the logits of shape {tuple(preds.shape)} hold {preds.shape[self.class_axis]} classes at axis "
                f"{self.class_axis}, the metric has {self.classes}"
            )
        check_labels(preds, target, self.class_axis)
        cells = target.long() * self.classes + preds.argmax(self.class_axis) + 1
        return torch.where(target == IGNORE, 0, cells)


class MeanIoU(Confusion):
    """Intersection over union, mean over the classes.

    In [0, 1], more is better. A class that is neither in the labels nor in the answers has no value and is left out of
    the mean. NaN before anything labelled was seen.

    **Paper**: Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015, section 3.4.
    """

    def value_of(self, matrix: Tensor) -> Tensor:
        return iou(matrix).nanmean(-1)


class IoU(Confusion):
    """Intersection over union of one class.

    In [0, 1], more is better. NaN where the class is neither in the labels nor in the answers.

    Args:
        of: the number of the class.
        classes: how many; filled in from the task.
        class_axis: where the classes are in the logits; filled in from the task.

    Raises:
        ValueError: there is no such class.
    """

    def __init__(self, *, of: int, classes: int, class_axis: int = 1) -> None:
        super().__init__(classes=classes, class_axis=class_axis)
        if not 0 <= of < classes:
            raise ValueError(f"of={of}: the classes are 0 to {classes - 1}")
        self.of = of

    def value_of(self, matrix: Tensor) -> Tensor:
        return iou(matrix)[..., self.of]


class PixelAccuracy(Confusion):
    """The share of labelled pixels that get their class.

    In [0, 1], more is better. Large classes decide it. NaN before anything labelled was seen.
    """

    def value_of(self, matrix: Tensor) -> Tensor:
        return matrix.diagonal(dim1=-2, dim2=-1).sum(-1) / matrix.sum((-2, -1))


def iou(matrix: Tensor) -> Tensor:
    """Of every class: (..., C, C) counts -> (..., C), NaN for a class without any count."""
    both = matrix.diagonal(dim1=-2, dim2=-1)
    return both / (matrix.sum(-1) + matrix.sum(-2) - both)
