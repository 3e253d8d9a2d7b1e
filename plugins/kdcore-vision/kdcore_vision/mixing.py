"""Pictures mixed two by two, on the device, alike for teacher and student."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from kdcore.signals import IGNORE, Batch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from kdcore_vision.task import as_floats


class _Mixing(nn.Module):
    """Mixes every sample of a batch with another one; labels become shares of the classes, float (N, classes).

    The share is drawn from Beta(alpha, alpha), once a batch, from the run's own random state. Views are mixed as the
    batch itself is. A sample without a label (-100) adds no share; the rows are scaled so that the cross-entropy of the
    batch stays the mean over its labels.
    """

    def __init__(self, *, classes: int, alpha: float, probability: float) -> None:
        super().__init__()
        if not alpha > 0:
            raise ValueError(f"alpha={alpha} is not above 0")
        if not 0 < probability <= 1:
            raise ValueError(f"probability={probability} is not in (0, 1]")
        self.classes, self.alpha, self.probability = classes, alpha, probability

    def forward(self, batch: Batch, models: Callable[[str], nn.Module]) -> Batch:
        # both drawn on the host, where reading them waits for nothing; and always both, whatever the first says
        chance = float(torch.rand(()))
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        return self._mixed(batch, share) if chance < self.probability else batch

    @abstractmethod
    def mix(self, image: Tensor, other: Tensor, share: float, place: tuple[float, float]) -> tuple[Tensor, float]:
        """The mixed pictures, and the share of ``image`` in them."""

    def _mixed(self, batch: Batch, share: float) -> Batch:
        image: Tensor = batch["image"]
        partner = torch.randperm(len(image), device=image.device)
        place = (float(torch.rand(())), float(torch.rand(())))

        def mixed(one: Batch) -> Batch:
            image, kept = self.mix(one["image"], one["image"][partner], share, place)
            if "labels" not in one:
                return {**one, "image": image}
            shares = self._shares(one["labels"])
            return {**one, "image": image, "labels": _scaled(kept * shares + (1 - kept) * shares[partner])}

        views: dict[str, Any] = batch.get("views", {})
        shown = {name: mixed(view) if "image" in view else view for name, view in views.items()}
        return mixed(batch) | ({"views": shown} if views else {})

    def _shares(self, labels: Tensor) -> Tensor:
        if labels.is_floating_point():  # mixed before
            return labels
        return torch.where((labels != IGNORE).unsqueeze(1), one_hot(labels.clamp(min=0), self.classes).float(), 0.0)


class Mixup(_Mixing):
    """``share * x + (1 - share) * x'``, and labels likewise, with x' another sample of the batch.

    Args:
        classes: number of classes; filled in from the task.
        alpha: the larger, the more alike the shares; the paper uses 0.1 to 0.4 on ImageNet, and 1 on small pictures.
        probability: share of the batches that are mixed.

    Raises:
        ValueError: ``alpha`` is not above 0, or ``probability`` not in (0, 1].

    **Paper**: Zhang, Cisse, Dauphin and Lopez-Paz, 2017 (arXiv 1710.09412).
    """

    def __init__(self, *, classes: int, alpha: float = 0.2, probability: float = 1.0) -> None:
        super().__init__(classes=classes, alpha=alpha, probability=probability)

    def mix(self, image: Tensor, other: Tensor, share: float, place: tuple[float, float]) -> tuple[Tensor, float]:
        return torch.lerp(as_floats(other), as_floats(image), share), share


class CutMix(_Mixing):
    """A box of x is replaced by that of another sample of the batch; labels are mixed by area.

    The box has the share ``1 - share`` of the area and the picture's proportions; its centre is anywhere, so it may be
    cut off at the edges, and what is left of it counts.

    Args:
        classes: number of classes; filled in from the task.
        alpha: 1, the paper's choice, draws shares evenly.
        probability: share of the batches that are mixed.

    Raises:
        ValueError: ``alpha`` is not above 0, or ``probability`` not in (0, 1].

    **Paper**: Yun et al., 2019 (arXiv 1905.04899).
    """

    def __init__(self, *, classes: int, alpha: float = 1.0, probability: float = 1.0) -> None:
        super().__init__(classes=classes, alpha=alpha, probability=probability)

    def mix(self, image: Tensor, other: Tensor, share: float, place: tuple[float, float]) -> tuple[Tensor, float]:
        height, width = image.shape[-2:]
        side = (1 - share) ** 0.5
        top, bottom = _span(height, side, place[0])
        left, right = _span(width, side, place[1])
        mixed = image.clone()
        mixed[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _span(length: int, side: float, centre: float) -> tuple[int, int]:
    """The part of an axis that a box covers."""
    half = side * length / 2
    return max(0, round(centre * length - half)), min(length, round(centre * length + half))


def _scaled(shares: Tensor) -> Tensor:
    """Rows that add up to one on average: cross-entropy divides by their number, and unlabelled ones add nothing."""
    return shares * (len(shares) / shares.sum().clamp(min=1e-6))
