"""One picture to bytes, or a sentence that says why not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

NATIVE = {1: ("L",), 3: ("RGB",)}
"""Pillow's mode of pictures that need no conversion, by the number of channels."""

MODES = {
    "1": "black and white", "L": "grey", "LA": "grey with transparency", "P": "of a palette", "RGB": "coloured",
    "RGBA": "transparent", "CMYK": "CMYK", "YCbCr": "YCbCr", "PA": "of a palette with transparency",
}  # fmt: skip
"""Pillow's modes in words; all of them hold 8 bits a channel."""


class BadPictureError(Exception):
    """A picture that cannot be used; the message names the file and what is wrong with it."""


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
            BadPictureError: it cannot be decoded, has more than 8 bits a channel, or another size.
        """
        check_mode(picture, name)
        try:
            picture = picture.convert("L" if self.channels == 1 else "RGB")
        except Exception as error:  # Pillow's decoders raise whatever they like
            raise BadPictureError(f"{name}: is damaged ({reason(error)})") from error
        if (picture.height, picture.width) != self.size:
            picture = self._resized(picture, name)
        pixels = torch.from_numpy(np.array(picture))
        return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()

    def _resized(self, picture: Image.Image, name: str) -> Image.Image:
        width_height = self.size[::-1]
        if self.fit == "crop":
            return ImageOps.fit(picture, width_height, Image.Resampling.BILINEAR)
        if self.fit == "stretch":
            return picture.resize(width_height, Image.Resampling.BILINEAR)
        found, wanted = (f"{height}x{width}" for height, width in ((picture.height, picture.width), self.size))
        raise BadPictureError(f"{name}: is {found}, the first picture is {wanted}: set `size: [HEIGHT, WIDTH]`")


def opened(path: Path) -> Image.Image:
    """The picture of a file, not decoded yet.

    Raises:
        BadPictureError: there is none, it is empty, or it is no picture.
    """
    try:
        return Image.open(path)
    except FileNotFoundError as error:
        raise BadPictureError(f"{path}: there is no such file") from error
    except Exception as error:  # Pillow's decoders raise whatever they like
        what = "is an empty file" if path.is_file() and path.stat().st_size == 0 else "is no picture that can be read"
        raise BadPictureError(f"{path}: {what}{'' if what.endswith('file') else f' ({reason(error)})'}") from error


def check_mode(picture: Image.Image, name: str) -> None:
    """Refuse what Pillow would clip to white without a word.

    Raises:
        BadPictureError: it has more than 8 bits a channel.
    """
    if picture.mode not in MODES:
        raise BadPictureError(f"{name}: has more than 8 bits a channel (mode {picture.mode}): convert it to 8 bits")


def conversions(modes: Counter[str], channels: int, split: str) -> list[str]:
    """A note on the pictures that were converted, if any."""
    others = [(mode, count) for mode, count in modes.most_common() if mode not in NATIVE[channels]]
    if not others:
        return []
    what = ", ".join(f"{count} {MODES[mode]}" for mode, count in others)
    total = sum(modes.values())
    to = "grey" if channels == 1 else "RGB"
    return [f"of {total} pictures of the split `{split}` these were converted to {to}: {what}"]


def reason(error: Exception) -> str:
    """The first line of a library's complaint."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
