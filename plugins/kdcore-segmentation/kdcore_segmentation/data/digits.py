"""Pictures made of the real handwritten digits that scikit-learn carries: nothing to download."""

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

from kdcore_segmentation.data.codes import VOID
from kdcore_segmentation.data.files import Held
from kdcore_segmentation.data.pairs import SPLIT_SEED, SPLITS

COUNTS: dict[Split, int] = {"train": 800, "val": 100, "test": 200}
"""Pictures in each split."""

DIGITS = (1, 2)
"""At least and at most so many digits on each 32x32 pixels; a later one may cover part of an earlier one."""

ROOM = 32
"""Smallest side of a picture."""

SIDES = (20, 28)
"""Smallest and largest side of a digit in pixels; the originals are 8x8."""

INK = 0.4
"""A pixel belongs to a digit where its ink, in [0, 1], is above this."""


class DigitScenes(Data):
    """Handwritten digits pasted on a noisy ground: 800 pictures to train on, 100 for validation, 200 for the test.

    ``image`` float32 (N, 3, H, W) in [0, 1], ``labels`` int64 (N, H, W): 0 is the ground, ``d + 1`` the digit ``d``.
    Picture and mask are a pure function of split and number; no recipe's seed changes them. The digits of a split come
    from that split of the core's ``digits``, so that none is in two splits. Held in memory.

    Args:
        batch_size: samples in a batch, over all devices together.
        size: [height, width] of a picture, at least 32 each.
        labels: keep the masks of only so many training pictures, chosen by the recipe's seed; the others stay, all of
            whose pixels are labelled -100, for a teacher to speak about.

    Raises:
        RunError: scikit-learn is not installed.
        ValueError: a size too small for digits, or more labels than pictures.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width")

    def __init__(self, *, batch_size: int = 32, size: tuple[int, int] = (32, 32), labels: int | None = None) -> None:
        super().__init__(batch_size=batch_size)
        if min(size) < ROOM:
            raise ValueError(f"size={list(size)}: digits of up to {SIDES[1]} pixels need at least {ROOM}x{ROOM}")
        if labels is not None and not 1 <= labels <= COUNTS["train"]:
            raise ValueError(f"labels={labels}: give from 1 to {COUNTS['train']}, or leave it out to keep them all")
        self._size = size
        self._labels = labels
        self.class_names = ("ground", *"0123456789")
        self.facts = {"classes": 11, "channels": 3, "image_height": size[0], "image_width": size[1]}

    def split(self, name: Split) -> Held:
        images, masks, ids = self._drawn[name]
        if name == "train" and self._labels is not None:
            chosen = sample_seeds(derive_seed(self.seed, "labels"), ids).argsort()
            masks = masks.index_fill(0, chosen[self._labels :], VOID)
        return Held(images, masks, ids)

    @cached_property
    def _drawn(self) -> dict[Split, tuple[Tensor, Tensor, Tensor]]:
        digits = Digits()
        drawn: dict[Split, tuple[Tensor, Tensor, Tensor]] = {}
        for place, name in enumerate(SPLITS):
            ids = (place << 32) + torch.arange(COUNTS[name])
            seeds = sample_seeds(SPLIT_SEED, ids).tolist()
            scenes = [draw(digits.split(name).columns, self._size, seed) for seed in seeds]
            images, masks = (torch.stack(column) for column in zip(*scenes, strict=True))
            drawn[name] = images, masks, ids
        return drawn


def draw(digits: Mapping[str, Tensor], size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """One picture: image uint8 (3, H, W) and mask uint8 (H, W).

    Args:
        digits: ``image`` float32 (M, 1, 8, 8) in [0, 1] and ``labels`` int64 (M,) to choose from.
    """
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    height, width = size
    ground = interpolate(torch.rand(1, 3, 4, 4, generator=generator), size=size, mode="bilinear")[0]
    image = 0.3 * ground + 0.03 * torch.randn(3, height, width, generator=generator)
    mask = torch.zeros(height, width, dtype=torch.uint8)
    for _ in range(number(*DIGITS) * (height * width // ROOM**2)):
        row, side = number(0, len(digits["labels"]) - 1), number(*SIDES)
        top, left = number(0, height - side), number(0, width - side)
        ink = interpolate(digits["image"][row][None], size=(side, side), mode="bilinear")[0, 0]
        colour = 0.4 + 0.6 * torch.rand(3, 1, 1, generator=generator)
        place = (slice(top, top + side), slice(left, left + side))
        image[:, *place] = image[:, *place] * (1 - ink) + colour * ink
        mask[place] = torch.where(ink > INK, (digits["labels"][row] + 1).to(torch.uint8), mask[place])
    return (image.clamp(0, 1) * 255).round().to(torch.uint8), mask
