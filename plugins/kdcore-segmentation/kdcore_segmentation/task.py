"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from kdcore.task import Task, check_logits, normalise
from torch import Tensor, nn
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kdcore.signals import Batch, Signals


class Semantic(Task):
    """One label for each pixel.

    A batch holds ``image`` float (N, C, H, W) as the data gives it: each net's own ``mean`` and ``std`` are applied
    here. ``labels`` int64 (N, H, W) is optional, -100 where a pixel has no class. A model returns logits
    (N, classes, h, w), perhaps coarser than the image, as SegFormer's are: they are enlarged here, bilinearly, once,
    so that every loss and metric reads ``logits`` (N, classes, H, W). The coarse ones are in a tap of the last layer.

    ``image_height`` and ``image_width`` are those of whole images, which validation, test and the report use. Where
    training samples are cropped, only training sees the smaller size: a loss must not size its parts by it.

    Args:
        classes: number of classes.

    Raises:
        ValueError: fewer than two classes.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width")
    primary: ClassVar[tuple[str, str]] = ("miou", "max")
    class_axis: ClassVar[int] = 1

    def __init__(self, *, classes: int) -> None:
        if classes < 2:
            raise ValueError(f"classes={classes}: there must be at least two to tell apart (the ground is one)")
        self.facts = {"classes": classes}

    def signals(self, model: nn.Module, batch: Batch, others: Mapping[str, Signals]) -> Signals:
        """``logits`` (N, classes, H, W), as large as the image.

        Raises:
            KeyError: the batch has no ``image``.
            ValueError: the model does not return logits of this shape.
        """
        if "image" not in batch:
            raise KeyError(f"the task `semantic` reads `image`, the batch holds: {', '.join(sorted(batch))}")
        image = batch["image"]
        logits = model(normalise(model, image))
        wanted = "a segmentation net returns logits (N, {classes}, h, w)"
        check_logits(logits, self.facts["classes"], ndim=4, wanted=wanted)
        return {"logits": as_large_as(logits, image)}

    def example(self, n: int) -> Batch:
        """``n`` whole images of random values in [0, 1), always the same; labels all 0.

        Raises:
            ValueError: the facts tell no shape.
        """
        shape = self.facts_of_example("channels", "image_height", "image_width")
        image = torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))
        return {"image": image, "labels": torch.zeros(n, *shape[1:], dtype=torch.int64), "id": torch.arange(n)}

    def chance(self) -> float:
        """1 / classes: what neither one class everywhere nor guessing exceeds, where all classes occur."""
        classes: int = self.facts["classes"]
        return 1 / classes

    def deploy(self, model: nn.Module) -> nn.Module:
        """``image`` (N, C, H, W) as the data gives it, in [0, 1] -> probabilities float32 (N, classes, H, W).

        The model is not copied, and is put into eval mode.
        """
        return _Deployed(model).eval()


def as_large_as(logits: Tensor, image: Tensor) -> Tensor:
    """Logits (N, C, h, w) enlarged bilinearly to the image's height and width."""
    size = image.shape[-2:]
    return logits if logits.shape[-2:] == size else interpolate(logits, size=size, mode="bilinear", align_corners=False)


class _Deployed(nn.Module):
    """Normalisation, the net, the image's own size, softmax."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(normalise(self.model, image))
        return as_large_as(logits, image).float().softmax(1)
