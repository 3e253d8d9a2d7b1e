"""Pictures with boxes as samples, which torchvision's transforms move together, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from kdcore.data.seeds import sample_seeds
from kdcore.errors import RunError
from kdcore.signals import IGNORE, Batch
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, wrap

Sample = dict[str, Any]


@dataclass(frozen=True)
class Targets:
    """What is known of the pictures of a split, by row.

    Attributes:
        ids: int64 (N,).
        boxes: float32 (M, 4) each, left, top, right, bottom in pixels of the picture as it is given out.
        labels: int64 (M,) each.
        ignore: bool (M,) each: neither to be found nor wrong to find.
        known: bool (N,): of which pictures the boxes are known; ``None`` for all.
    """

    ids: Tensor
    boxes: Sequence[Tensor]
    labels: Sequence[Tensor]
    ignore: Sequence[Tensor]
    known: Tensor | None = None

    @property
    def labelled(self) -> Tensor:
        """Pictures whose boxes are known, of those too that have none: bool (N,)."""
        return torch.ones(len(self.ids), dtype=torch.bool) if self.known is None else self.known

    def sample(self, row: int, image: Tensor) -> Sample:
        """One picture (3, H, W) with its boxes; those that are hidden are not there."""
        sample: Sample = {
            "image": image,
            "boxes": BoundingBoxes(
                self.boxes[row], format=BoundingBoxFormat.XYXY, canvas_size=(image.shape[-2], image.shape[-1])
            ),
            "box_labels": self.labels[row],
            "box_ignore": self.ignore[row],
            "boxes_known": torch.tensor(True),
            "id": self.ids[row],
        }
        return sample if self.known is None or self.known[row] else without_boxes(sample)

    def hiding(self, keep: int, seed: int) -> Targets:
        """The boxes of only so many pictures are known; more with the same seed include the fewer.

        Raises:
            ValueError: fewer than one, or more than there are.
        """
        total = len(self.ids)
        if not 1 <= keep <= total:
            raise ValueError(f"labels={keep}: give from 1 to {total}, or leave it out to keep them all")
        known = torch.zeros(total, dtype=torch.bool)
        known[sample_seeds(seed, self.ids).argsort()[:keep]] = True
        return replace(self, known=known)


class Held:
    """Samples whose pictures are in memory, as bytes (N, 3, H, W)."""

    def __init__(self, images: Tensor, targets: Targets) -> None:
        self.images, self.targets, self.ids, self.labelled = images, targets, targets.ids, targets.labelled

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return self.targets.sample(index, self.images[index].float() / 255)

    def hiding(self, keep: int, seed: int) -> Held:
        """See :meth:`Targets.hiding`."""
        return Held(self.images, self.targets.hiding(keep, seed))


class Streamed:
    """Samples whose pictures are read each time.

    Args:
        read: row -> uint8 (3, H, W). Workers are sent it by pickle.
    """

    def __init__(self, read: Callable[[int], Tensor], targets: Targets) -> None:
        self.read, self.targets, self.ids, self.labelled = read, targets, targets.ids, targets.labelled

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return self.targets.sample(index, self.read(index).float() / 255)

    def hiding(self, keep: int, seed: int) -> Streamed:
        """See :meth:`Targets.hiding`."""
        return Streamed(self.read, self.targets.hiding(keep, seed))


LEAST_SIDE = 1.0
"""Pixels that a box has on both sides; nobody can see an object in less."""

PADDING: dict[str, float] = {"boxes": 0.0, "box_labels": IGNORE, "box_ignore": False}
"""What stands where a picture has fewer boxes than the fullest of its batch."""


def collate(samples: list[Sample]) -> Batch:
    """A batch from single samples: boxes padded to the fullest picture, at least one row; slivers are dropped.

    A crop leaves of a box that lies outside a line or a point at the picture's edge, and of one that lies nearly
    outside a sliver: where a side is under a pixel, it is no object any more.

    Raises:
        RunError: pictures of different sizes, or boxes without their labels.
    """
    sizes = sorted({tuple(sample["image"].shape) for sample in samples})
    if len(sizes) > 1:
        raise RunError(
            f"the pictures of a batch have different sizes, {sizes[0]} and {sizes[1]}: let the last of the transforms "
            "give one, such as {use: torchvision, name: Resize, options: {size: [H, W]}}, or RandomCrop with "
            "pad_if_needed: true"
        )
    standing = [_standing(sample) for sample in samples]
    most = max(1, *(len(kept) for kept in standing))  # no shape is ever 0
    batch: Batch = {"image": torch.stack([sample["image"] for sample in samples])}
    for name, padding in PADDING.items():
        columns = [_plain(sample[name])[kept] for sample, kept in zip(samples, standing, strict=True)]
        batch[name] = torch.stack([_padded(column, most, padding) for column in columns])
    rest = [{name: value for name, value in sample.items() if name not in ("image", *PADDING)} for sample in samples]
    return {**batch, **default_collate(rest)}


def without_boxes(batch: Batch) -> Batch:
    """A sample or a batch whose boxes nobody knows: padding, or none at all where it is a sample."""
    boxes = batch["boxes"]
    hidden = {**batch, "boxes_known": torch.zeros_like(batch["boxes_known"])}
    for name, padding in PADDING.items():
        column = batch[name]
        hidden[name] = column.new_full(column.shape, padding) if boxes.ndim == 3 else column[:0]
    if boxes.ndim == 2:
        hidden["boxes"] = wrap(hidden["boxes"], like=boxes)
    return hidden


def _standing(sample: Sample) -> Tensor:
    """Which boxes have a pixel on both sides: int64 (m,)."""
    boxes, labels = _plain(sample["boxes"]), sample["box_labels"]
    if len(boxes) != len(labels):
        raise RunError(
            f"sample id {int(sample['id'])} has {len(boxes)} boxes and {len(labels)} labels after its transforms: "
            "leave out what drops boxes (SanitizeBoundingBoxes), because emptied boxes are dropped anyway"
        )
    return is_standing(boxes).nonzero().flatten()


def is_standing(boxes: Tensor) -> Tensor:
    """(M, 4) -> bool (M,): no side is under a pixel."""
    return (boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE).all(1)


def _padded(column: Tensor, rows: int, value: float) -> Tensor:
    """(m, ...) -> (rows, ...)."""
    padded = column.new_full((rows, *column.shape[1:]), value)
    padded[: len(column)] = column
    return padded


def _plain(values: Tensor) -> Tensor:
    return values.as_subclass(Tensor)
