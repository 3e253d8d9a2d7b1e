"""One image file and one mask file to bytes, or a sentence that says why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from kdcore.data.bad import BadSampleError
from kdcore.data.pictures import decoded, height_and_width, opened, pixels
from kdcore.errors import RunError
from PIL import Image
from torch import Tensor

from kdcore_segmentation.data.codes import UNKNOWN, VOID

MASK_MODES = ("1", "L", "P")
"""Pillow's names for pictures with one byte (or bit) a pixel; of a palette the indices count, not the colours."""


@dataclass(frozen=True)
class Pair:
    """Where a sample lies.

    Attributes:
        id: stable: the place of the file among those of its folder.
    """

    image: Path
    mask: Path
    id: int


@dataclass(frozen=True)
class Reader:
    """Reads pairs of one data set.

    Attributes:
        codes: what each of the values 0..255 of a mask means; see :mod:`kdcore_segmentation.data.codes`.
        size: (height, width) of every picture.
        resize: whether they are brought to this size, or must have it.
    """

    codes: Sequence[int]
    size: tuple[int, int]
    resize: bool = False

    def read(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """Image uint8 (3, H, W) and mask uint8 (H, W), ``VOID`` where there is no class.

        Images are resized bilinearly (with a filter as wide as the reduction), masks to the nearest pixel.

        Raises:
            BadSampleError: a file cannot be decoded, the two differ in size or are a line of pixels, or the mask holds
                a value that is no class, or no class at all.
            RunError: they are not resized, and are of another size than all others: that is no fault of the sample.
        """
        with opened(pair.image) as picture:
            image = decoded(picture, str(pair.image), "RGB")
        with opened(pair.mask) as picture:
            if picture.mode not in MASK_MODES:
                raise BadSampleError(
                    f"{pair.mask}: has the mode {picture.mode}: a mask holds one class number (0 to 255) a pixel, in "
                    "one channel"
                )
            mask = decoded(picture, str(pair.mask))
        if image.size != mask.size:
            raise BadSampleError(
                f"{pair.mask}: is {height_and_width(mask)}, but its image {pair.image} is {height_and_width(image)}"
            )
        _check_picture(image, pair.image)
        height, width = self.size
        if self.resize:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            mask = mask.resize((width, height), Image.Resampling.NEAREST)
        elif image.size != (width, height):
            raise RunError(
                f"{pair.image}: is {height_and_width(image)}, the first image is {height}x{width}: set "
                "`size: [HEIGHT, WIDTH]`"
            )
        return pixels(image), self._classes(mask, pair.mask)

    def _classes(self, mask: Image.Image, path: Path) -> Tensor:
        values = np.asarray(mask, dtype=np.uint8)
        meant = np.asarray(self.codes, dtype=np.int16)[values]
        if (meant == UNKNOWN).any():
            wrong = ", ".join(map(str, np.unique(values[meant == UNKNOWN])[:5]))
            raise BadSampleError(f"{path}: holds the value {wrong}, which is no class: known are {_known(self.codes)}")
        if (meant == VOID).all():
            raise BadSampleError(f"{path}: holds no class at all: every pixel has a value that is ignored")
        return torch.from_numpy(meant.astype(np.uint8))


def size_of(path: Path) -> tuple[int, int]:
    """(height, width), from the header alone.

    Raises:
        BadSampleError: the file is no image, or a line of pixels.
    """
    with opened(path) as picture:
        _check_picture(picture, path)
        return picture.height, picture.width


def _check_picture(picture: Image.Image, path: Path) -> None:
    if min(picture.size) < 2:
        raise BadSampleError(f"{path}: is {height_and_width(picture)} pixels, which is no picture")


def _known(codes: Sequence[int]) -> str:
    """The values that a mask may hold, in words."""
    classes = [value for value, code in enumerate(codes) if code not in (UNKNOWN, VOID)]
    ignored = [value for value, code in enumerate(codes) if code == VOID]
    runs = f"{classes[0]} to {classes[-1]}" if classes == list(range(classes[0], classes[-1] + 1)) else str(classes)
    return runs + (f", and {', '.join(map(str, ignored))} for none" if ignored else "")
