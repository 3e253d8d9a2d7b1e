"""Pictures made of the real handwritten digits that scikit-learn carries, with their boxes: nothing to download."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import torch
from kdcore.data.base import Data, Split
from kdcore.data.digits import Digits
from kdcore.data.seeds import derive_seed, sample_seeds
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.ops import box_iou

from kdcore_detection.data.annotations import SPLIT_SEED, SPLITS
from kdcore_detection.data.samples import Held, Targets, collate, without_boxes

COUNTS: dict[Split, int] = {"train": 800, "val": 100, "test": 200}
"""Pictures in each split."""

DIGITS = (1, 3)
"""At least and at most so many digits on each 64x64 pixels."""

ROOM = 64
"""Smallest side of a picture."""

SIDES = (16, 36)
"""Smallest and largest side of a digit in pixels; the originals are 8x8."""

INK = 0.4
"""A pixel belongs to a digit where its ink, in [0, 1], is above this; the box goes around these pixels."""

OVERLAP, TRIES = 0.15, 20
"""A digit is placed anew while its box meets an earlier one by more than this (intersection over union), and left out
when so many places were tried."""


class DigitBoxes(Data):
    """Handwritten digits pasted on a noisy ground: 800 pictures to train on, 100 for validation, 200 for the test.

    Batches as those of files; see :class:`kdcore_detection.data.files.BoxedFiles`. A label is the digit itself.

    Picture and boxes are a pure function of split and number; no recipe's seed changes them. The digits of a split come
    from that split of the core's ``digits``, so that none is in two splits. Held in memory.

    Args:
        batch_size: pictures in a batch, over all devices together.
        size: [height, width] of a picture, at least 64 each.
        labels: keep the boxes of only so many training pictures, chosen by the recipe's seed; the others stay, with
            their boxes unknown, for a teacher to speak about.

    Raises:
        RunError: scikit-learn is not installed.
        ValueError: a size too small for digits, or more labels than pictures.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width")
    collate = staticmethod(collate)
    without_labels = staticmethod(without_boxes)

    def __init__(self, *, batch_size: int = 16, size: tuple[int, int] = (64, 64), labels: int | None = None) -> None:
        super().__init__(batch_size=batch_size)
        if min(size) < ROOM:
            raise ValueError(f"size={list(size)}: digits of up to {SIDES[1]} pixels need at least {ROOM}x{ROOM}")
        self._size = size
        self._labels = labels
        self.class_names = tuple("0123456789")
        self.facts = {"classes": 10, "channels": 3, "image_height": size[0], "image_width": size[1]}

    def split(self, name: Split) -> Held:
        samples = self._drawn[name]
        if name == "train" and self._labels is not None:
            return samples.hiding(self._labels, derive_seed(self.seed, "labels"))
        return samples

    @cached_property
    def _drawn(self) -> dict[Split, Held]:
        digits = Digits()
        drawn: dict[Split, Held] = {}
        for place, name in enumerate(SPLITS):
            ids = (place << 32) + torch.arange(COUNTS[name])
            seeds = sample_seeds(SPLIT_SEED, ids).tolist()
            scenes = [draw(digits.split(name).columns, self._size, seed) for seed in seeds]
            images, boxes, labels = zip(*scenes, strict=True)
            ignore = [torch.zeros(len(one), dtype=torch.bool) for one in labels]
            drawn[name] = Held(torch.stack(images), Targets(ids, boxes, labels, ignore))
        return drawn


def draw(digits: Mapping[str, Tensor], size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """One picture: image uint8 (3, H, W), boxes float32 (M, 4) around the ink, and labels int64 (M,).

    Args:
        digits: ``image`` float32 (M, 1, 8, 8) in [0, 1] and ``labels`` int64 (M,) to choose from.
    """
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    height, width = size
    ground = interpolate(torch.rand(1, 3, 4, 4, generator=generator), size=size, mode="bilinear")[0]
    image = 0.3 * ground + 0.03 * torch.randn(3, height, width, generator=generator)
    boxes, labels = torch.zeros(0, 4), []
    for _ in range(number(*DIGITS) * (height * width // ROOM**2)):
        row, side = number(0, len(digits["labels"]) - 1), number(*SIDES)
        colour = 0.4 + 0.6 * torch.rand(3, 1, 1, generator=generator)
        ink = interpolate(digits["image"][row][None], size=(side, side), mode="bilinear")[0, 0]
        for _ in range(TRIES):
            top, left = number(0, height - side), number(0, width - side)
            box = around(ink) + torch.tensor([left, top, left, top])
            if not (box_iou(box[None], boxes) > OVERLAP).any():
                place = (slice(top, top + side), slice(left, left + side))
                image[:, *place] = image[:, *place] * (1 - ink) + colour * ink
                boxes = torch.cat([boxes, box[None]])
                labels.append(int(digits["labels"][row]))
                break
    return (image.clamp(0, 1) * 255).round().to(torch.uint8), boxes, torch.tensor(labels)


def around(ink: Tensor) -> Tensor:
    """float32 (4,): the smallest box that holds every pixel of the digit (S, S)."""
    rows, columns = (ink > INK).nonzero().T
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
