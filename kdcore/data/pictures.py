"""One picture file to pixels, or a sentence that says why not: for data that lies as images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdcore.data.bad import BadSampleError, reason

MODES = {
    "1": "black and white", "L": "grey", "LA": "grey with transparency", "P": "of a palette", "RGB": "coloured",
    "RGBA": "transparent", "CMYK": "CMYK", "YCbCr": "YCbCr", "PA": "of a palette with transparency",
}  # fmt: skip
"""Pillow's modes in words; all of them hold 8 bits a channel at most."""


def opened(path: Path) -> Image.Image:
    """The picture of a file, not decoded yet.

    Raises:
        BadSampleError: there is none, it is empty, or it is no picture.
    """
    try:
        return Image.open(path)
    except FileNotFoundError as error:
        raise BadSampleError(f"{path}: there is no such file") from error
    except Exception as error:  # Pillow's decoders raise whatever they like
        if path.is_file() and path.stat().st_size == 0:
            raise BadSampleError(f"{path}: is an empty file") from error
        raise BadSampleError(f"{path}: is no picture that can be read ({reason(error)})") from error


def decoded(picture: Image.Image, name: str, mode: str | None = None) -> Image.Image:
    """The picture with its pixels read, converted to one of Pillow's modes where one is given.

    Raises:
        BadSampleError: it breaks off, or it is to be converted and has more than 8 bits a channel.
    """
    if mode is not None:
        check_mode(picture, name)
    try:
        picture.load()
        return picture if mode is None else picture.convert(mode)
    except Exception as error:  # as above
        raise BadSampleError(f"{name}: is damaged ({reason(error)})") from error


def check_mode(picture: Image.Image, name: str) -> None:
    """Refuse what Pillow would clip to white without a word.

    Raises:
        BadSampleError: it has more than 8 bits a channel.
    """
    if picture.mode not in MODES:
        raise BadSampleError(f"{name}: has more than 8 bits a channel (mode {picture.mode}): convert it to 8 bits")


def pixels(picture: Image.Image) -> Tensor:
    """uint8 (C, H, W) of a decoded picture; grey ones have one channel."""
    found = torch.from_numpy(np.array(picture))
    return found.unsqueeze(0) if found.ndim == 2 else found.permute(2, 0, 1).contiguous()


def height_and_width(picture: Image.Image) -> str:
    """``480x640``, for messages."""
    return f"{picture.height}x{picture.width}"
