"""One picture to bytes of a given size, and what had to be converted for that."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from kdcore.data.bad import BadSampleError
from kdcore.data.pictures import MODES, decoded, height_and_width, pixels
from PIL import Image, ImageOps
from torch import Tensor

NATIVE = {1: ("L",), 3: ("RGB",)}
"""Pillow's mode of pictures that need no conversion, by the number of channels."""


@dataclass(frozen=True)
class Shape:
    """What every picture of a data set becomes.

    Attributes:
        channels: 3 for RGB, 1 for grey.
        size: (height, width).
        fit: how it gets this size: ``crop`` keeps the proportions and cuts off what stands out, ``stretch`` does not
            keep them; with ``None`` it must have it.
    """

    channels: int
    size: tuple[int, int]
    fit: Literal["crop", "stretch"] | None = None

    def bytes_of(self, picture: Image.Image, name: str) -> Tensor:
        """uint8 (C, H, W).

        Raises:
            BadSampleError: it cannot be decoded, has more than 8 bits a channel, or another size.
        """
        picture = decoded(picture, name, "L" if self.channels == 1 else "RGB")
        if (picture.height, picture.width) != self.size:
            picture = self._resized(picture, name)
        return pixels(picture)

    def _resized(self, picture: Image.Image, name: str) -> Image.Image:
        width_height = self.size[::-1]
        if self.fit == "crop":
            return ImageOps.fit(picture, width_height, Image.Resampling.BILINEAR)
        if self.fit == "stretch":
            return picture.resize(width_height, Image.Resampling.BILINEAR)
        height, width = self.size
        raise BadSampleError(
            f"{name}: is {height_and_width(picture)}, the first picture is {height}x{width}: set "
            "`size: [HEIGHT, WIDTH]`"
        )


def conversions(modes: Counter[str], channels: int, split: str) -> list[str]:
    """A note on the pictures that were converted, if any."""
    others = [(mode, count) for mode, count in modes.most_common() if mode not in NATIVE[channels]]
    if not others:
        return []
    what = ", ".join(f"{count} {MODES[mode]}" for mode, count in others)
    total = sum(modes.values())
    to = "grey" if channels == 1 else "RGB"
    return [f"of {total} pictures of the split `{split}` these were converted to {to}: {what}"]
