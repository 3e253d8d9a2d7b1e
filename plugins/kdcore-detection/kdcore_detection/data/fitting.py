"""How pictures of all sizes come to one size, and their boxes with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from kdcore.data.pictures import pixels
from PIL import Image
from torch import Tensor

from kdcore_detection.data.annotations import Array

GREY = (114, 114, 114)
"""What a letterboxed picture is padded with, as detectors are commonly trained."""


@dataclass(frozen=True)
class Fit:
    """Brings pictures to one size.

    Attributes:
        size: (height, width) of every picture.
        kind: ``letterbox`` keeps the proportions and pads two sides alike, in grey; ``stretch`` does not keep them.
    """

    size: tuple[int, int]
    kind: Literal["letterbox", "stretch"] = "letterbox"

    def image(self, picture: Image.Image) -> Tensor:
        """uint8 (3, H, W) of a decoded RGB picture, resized bilinearly with a filter as wide as the reduction."""
        (top, left), (height, width) = self._place(picture.height, picture.width)
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        if (height, width) != self.size:
            canvas = Image.new("RGB", self.size[::-1], GREY)
            canvas.paste(resized, (left, top))
            resized = canvas
        return pixels(resized)

    def boxes(self, boxes: Array, size: tuple[int, int]) -> Tensor:
        """float32 (M, 4): the boxes of a picture of ``size`` (height, width), moved along with it."""
        (top, left), (height, width) = self._place(*size)
        vertical, horizontal = height / size[0], width / size[1]
        moved = torch.from_numpy(boxes) * torch.tensor([horizontal, vertical, horizontal, vertical])
        return (moved + torch.tensor([left, top, left, top])).float()

    def _place(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(top, left) and (height, width) of a picture in the new one."""
        if self.kind == "stretch":
            return (0, 0), self.size
        scale = min(self.size[0] / height, self.size[1] / width)
        new = (max(1, round(height * scale)), max(1, round(width * scale)))
        return ((self.size[0] - new[0]) // 2, (self.size[1] - new[1]) // 2), new
