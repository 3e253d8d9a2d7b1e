"""Image classification: the core's own task."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from kdcore.task import Task, check_logits, normalise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kdcore.signals import Batch, Signals


class Classify(Task):
    """One label for each sample.

    A batch holds ``image`` float (N, C, H, W), or (N, F) for vectors, as the data gives it: each net's own ``mean`` and
    ``std`` are applied here. ``labels`` int64 (N,) is optional, -100 where a sample has none. A model returns logits
    (N, classes).

    Args:
        classes: number of classes.

    Raises:
        ValueError: fewer than two classes.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width", "features")
    primary: ClassVar[tuple[str, str]] = ("accuracy", "max")
    class_axis: ClassVar[int] = -1

    def __init__(self, *, classes: int) -> None:
        if classes < 2:
            raise ValueError(f"classes={classes}: there must be at least two to tell apart")
        self.facts = {"classes": classes}

    def signals(self, model: nn.Module, batch: Batch, others: Mapping[str, Signals]) -> Signals:
        """``logits`` (N, classes).

        Raises:
            KeyError: the batch has no ``image``.
            ValueError: the model does not return logits of this shape.
        """
        if "image" not in batch:
            raise KeyError(f"the task `classify` reads `image`, the batch holds: {', '.join(sorted(batch))}")
        logits = model(normalise(model, batch["image"]))
        check_logits(logits, self.facts["classes"], ndim=2, wanted="a classifier returns logits (N, {classes})")
        return {"logits": logits}

    def example(self, n: int) -> Batch:
        """``n`` samples of random values in [0, 1), always the same; labels all 0.

        Raises:
            ValueError: the facts tell no shape.
        """
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(n, *self._shape(), generator=generator)
        return {"image": image, "labels": torch.zeros(n, dtype=torch.int64), "id": torch.arange(n)}

    def chance(self) -> float:
        """1 / classes."""
        return 1 / int(self.facts["classes"])

    def deploy(self, model: nn.Module) -> nn.Module:
        """``image`` as the data gives it, (N, C, H, W) or (N, F) -> probabilities float32 (N, classes).

        The model is not copied, and is put into eval mode.
        """
        return _Deployed(model).eval()

    def _shape(self) -> tuple[int, ...]:
        """Of one sample; vectors have no channels."""
        for names in (("channels", "image_height", "image_width"), ("features",)):
            if all(name in self.facts for name in names):
                return tuple(self.facts[name] for name in names)
        raise ValueError(
            "an example needs the facts channels, image_height and image_width, or features; "
            f"known are: {', '.join(sorted(self.facts))}. The data gives them"
        )


class _Deployed(nn.Module):
    """Normalisation, the net, softmax."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(normalise(self.model, image))
        return logits.float().softmax(-1)
