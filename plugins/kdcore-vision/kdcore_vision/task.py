"""Image classification where every net sees pictures of its own size, and bytes are pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from kdcore.task import normalise
from kdcore.tasks.classify import Classify
from torch import Tensor, nn
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kdcore.signals import Batch, Signals


class ClassifyImages(Classify):
    """One label for each picture; bytes become [0, 1], and each net sees its own size, mean and std.

    A batch holds ``image`` (N, C, H, W), uint8 or float in [0, 1], and perhaps ``labels`` (N,), -100 where a picture
    has none. A net with a size of its own (``size`` of ``vision.timm``) sees the picture resized to it, bilinearly with
    a filter as wide as the reduction; so a teacher may look at 224 pixels and its student at 96.

    A net that knows the names of its outputs is refused where the data has other names, or another order of them.

    Args:
        classes: number of classes.

    Raises:
        ValueError: fewer than two classes.
    """

    fact_names: ClassVar[tuple[str, ...]] = (
        "classes", "channels", "image_height", "image_width", "features", "class_names",
    )  # fmt: skip

    def signals(self, model: nn.Module, batch: Batch, others: Mapping[str, Signals]) -> Signals:
        """``logits`` (N, classes).

        Raises:
            KeyError: the batch has no ``image``.
            ValueError: the model does not return logits of this shape, knows other classes, or fails on this size.
        """
        self._check_names(model)
        if "image" not in batch:
            return super().signals(model, batch, others)
        image = as_seen(model, batch["image"])
        try:
            return super().signals(model, {**batch, "image": image}, others)
        except (AssertionError, RuntimeError) as error:  # the net's own words for a picture that is too small for it
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(_does_not_run(image, error)) from error

    def deploy(self, model: nn.Module) -> nn.Module:
        """``image`` as the data gives it, uint8 or float (N, C, H, W) -> probabilities float32 (N, classes).

        The model is not copied, and is put into eval mode.
        """
        return Deployed(model).eval()

    def _check_names(self, model: nn.Module) -> None:
        theirs: Any = getattr(model, "class_names", None)
        ours = self.facts.get("class_names")
        # as a rule the very same object: the data's names are filled into the slot
        if theirs is not ours and theirs is not None and ours is not None and list(theirs) != list(ours):
            raise ValueError(_other_names(list(theirs), list(ours)))


class Deployed(nn.Module):
    """Bytes to [0, 1], the net's own size, normalisation, the net, softmax."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(normalise(self.model, as_seen(self.model, image)))
        return logits.float().softmax(-1)


def as_seen(model: nn.Module, image: Tensor) -> Tensor:
    """The picture as this very net takes it: floats in [0, 1], of its own size if it has one (``image_size``).

    Shape: (N, C, H, W) -> (N, C, h, w).
    """
    image = as_floats(image)
    size = getattr(model, "image_size", None)
    if size is None or image.shape[-2:] == size:
        return image
    return interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)


def as_floats(image: Tensor) -> Tensor:
    """Bytes to [0, 1]; floats stay as they are."""
    # the default type, because that is what Lightning's `bf16-true` and the like compute in
    return image if image.is_floating_point() else image.to(torch.get_default_dtype()) / 255


def _does_not_run(image: Tensor, error: Exception) -> str:
    channels, height, width = image.shape[1:]
    reason = (str(error) or type(error).__name__).partition("\n")[0]
    return (
        f"it fails on pictures of {height}x{width} with {channels} channels: {reason}. Most nets want 32x32 at least, "
        "and some a size of their own: set `size: [HEIGHT, WIDTH]` in its slot"
    )


def _other_names(theirs: list[str], ours: list[str]) -> str:
    """What differs, and the line that mends it."""
    if sorted(theirs) == sorted(ours):
        place = next(i for i, (one, other) in enumerate(zip(theirs, ours, strict=True)) if one != other)
        return (
            f"its classes are in another order than the data's: its output {place} is `{theirs[place]}`, the data's "
            f"class {place} is `{ours[place]}`. Give the data the net's order: class_names: [{', '.join(theirs)}]"
        )
    only = [name for name in ours if name not in theirs] or [name for name in theirs if name not in ours]
    who = "the data" if only[0] in ours else "the net"
    return (
        f"its {len(theirs)} classes are not those of the data: only {who} has `{only[0]}`. Is it the net for this "
        "data, and are the folders named as its classes are?"
    )
