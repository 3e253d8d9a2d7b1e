"""Object detection: a class and a box for every object of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from kdcore.task import Task, normalise
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from kdcore_detection.boxes import clip
from kdcore_detection.deploy import Deployed
from kdcore_detection.detector import Detector

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from kdcore.signals import Batch, Signals


class Boxes(Task):
    """A class and a box for each object.

    A batch holds ``image`` float (N, C, H, W) in [0, 1]: each net's own ``mean`` and ``std`` are applied here. With
    labels it holds ``boxes`` float32 (N, M, 4), xyxy in pixels, and ``box_labels`` int64 (N, M), -100 where a box is
    padding; optional are ``box_ignore`` bool (N, M), boxes that are neither to be found nor to be missed, and
    ``boxes_known`` bool (N,), False for an image whose boxes are hidden. A model is a ``Detector``.

    Args:
        classes: number of classes, without background.

    Raises:
        ValueError: no class.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width")
    primary: ClassVar[tuple[str, str]] = ("ap", "max")
    class_axis: ClassVar[int] = -1

    def __init__(self, *, classes: int) -> None:
        if classes < 1:
            raise ValueError(f"classes={classes}: there must be at least one to find")
        self.facts = {"classes": classes}
        self._made_by: MutableMapping[Tensor, Detector] = WeakTensorKeyDictionary()

    def signals(self, model: nn.Module, batch: Batch, others: Mapping[str, Signals]) -> Signals:
        """What the detector gives, and ``assigned`` int64 (N, A) where it assigns positions to the batch's boxes.

        A net of which nothing learns, such as a frozen teacher, is assigned nothing: no loss reads it of one.

        Raises:
            KeyError: the batch has no ``image``.
            ValueError: the model is no detector.
        """
        if "image" not in batch:
            raise KeyError(f"the task `boxes` reads `image`, the batch holds: {', '.join(sorted(batch))}")
        if not isinstance(model, Detector):
            raise ValueError(
                f"a {type(model).__name__} gives no boxes: the task `boxes` runs detectors, such as `detection.fcos`"
            )
        signals: Signals = model(normalise(model, batch["image"]))
        self._made_by[signals["boxes"]] = model  # who decodes them, should `observe` ask
        if "boxes" in batch and any(weight.requires_grad for weight in model.parameters()):
            assigned = model.assign(signals, batch)
            if assigned is not None:
                signals["assigned"] = assigned
        return signals

    def observe(self, student: Signals, teachers: Mapping[str, Signals], batch: Batch) -> dict[str, tuple[Any, ...]]:
        """Arguments for the metrics.

        Returns:
            ``detections_target``: (the student's ``Detections``, the batch) if it holds boxes; ``student_teacher``:
            both logits, where the teacher's have the same shape.

        Raises:
            ValueError: the student's boxes are not what a detector gave.
        """
        observed: dict[str, tuple[Any, ...]] = {}
        if "boxes" in batch:
            model = self._made_by.get(student["boxes"])
            if model is None:
                raise ValueError(
                    "these boxes were combined from several models, or read from a file, and no detector can choose "
                    "among them: score its members"
                )
            height, width = batch["image"].shape[-2:]
            boxes = clip(student["boxes"], height, width)
            observed["detections_target"] = (model.detections({**student, "boxes": boxes}), batch)
        first = next(iter(teachers.values()), None)
        if first is not None and "logits" in first and first["logits"].shape == student["logits"].shape:
            observed["student_teacher"] = (student["logits"], first["logits"])
        return observed

    def example(self, n: int) -> Batch:
        """``n`` images of random values in [0, 1), always the same, with one box of class 0 in the middle of each.

        Raises:
            ValueError: the facts tell no shape.
        """
        channels, height, width = self.facts_of_example("channels", "image_height", "image_width")
        box = torch.tensor([width / 4, height / 4, 3 * width / 4, 3 * height / 4])
        return {
            "image": torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0)),
            "boxes": box.expand(n, 1, 4).clone(),
            "box_labels": torch.zeros(n, 1, dtype=torch.int64),
            "id": torch.arange(n),
        }

    def chance(self) -> float:
        """0: boxes drawn at random hit nothing."""
        return 0.0

    def deploy(self, model: nn.Module) -> nn.Module:
        """``image`` (N, C, H, W) in [0, 1] -> a dictionary: ``boxes`` (N, D, 4), ``scores`` (N, D), ``labels`` (N, D).

        Best first, padded with score 0, label -1, box 0. The model is not copied, and is put into eval mode.

        Raises:
            ValueError: the model is no detector.
        """
        return Deployed(model).eval()
