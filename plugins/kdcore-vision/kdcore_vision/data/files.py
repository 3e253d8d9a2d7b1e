"""The base of data that lies as pictures somewhere: read into memory once, or each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from kdcore.data.bad import REMEDY, BadSampleError, left_out
from kdcore.data.base import Split
from kdcore.data.pictures import check_mode, opened
from kdcore.errors import RunError
from PIL import Image
from torch import Tensor

from kdcore_vision.data.images import Images, Pictures, Streamed, from_bytes
from kdcore_vision.data.listing import Picture
from kdcore_vision.data.reading import Shape, conversions

AUTO_LIMIT = 2 * 2**30
"""Bytes of one split that ``keep: auto`` puts into memory at most."""


class Shelf(Protocol):
    """The pictures of one split, by row, with their labels and ids, int64 (N,)."""

    labels: Tensor
    ids: Tensor

    def picture(self, row: int) -> Image.Image:
        """Perhaps not decoded yet; may raise ``BadSampleError``."""

    def name(self, row: int) -> str:
        """For messages."""


class FileShelf:
    """Picture files."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._paths: list[Path] = [picture.path for picture in pictures]
        self.labels = torch.tensor([picture.label for picture in pictures])
        self.ids = torch.tensor([picture.id for picture in pictures])

    def picture(self, row: int) -> Image.Image:
        return opened(self._paths[row])

    def name(self, row: int) -> str:
        return str(self._paths[row])


@dataclass(frozen=True)
class Reader:
    """Reads the pictures of a shelf, for training: what cannot be read stops the run. Workers are sent it by pickle."""

    shelf: Shelf
    shape: Shape

    def __call__(self, row: int) -> Tensor:
        try:
            return self.shape.bytes_of(self.shelf.picture(row), self.shelf.name(row))
        except BadSampleError as error:
            raise RunError(f"{error}. {REMEDY}") from error


class Shelves(Images):
    """Pictures that are opened one by one; see :class:`kdcore_vision.data.folders.Folders` for the other parameters.

    Args:
        shelves: the pictures of each split.
        names: of the classes.
        channels: that every picture gets.
        size: (height, width) that every picture gets; by default all have the size of the first.

    Raises:
        RunError: the first picture cannot be read.
        ValueError: a size below 2x2.
    """

    def __init__(
        self,
        *,
        shelves: Mapping[Split, Shelf],
        names: Sequence[str],
        channels: int,
        size: tuple[int, int] | None,
        fit: Literal["crop", "stretch"],
        batch_size: int,
        labels: int | None,
        bad: Literal["error", "skip"],
        keep: Literal["auto", "memory", "disk"],
        workers: int,
    ) -> None:
        if size is not None and min(size) < 2:
            raise ValueError(f"size={list(size)}: give [height, width] in pixels")
        self._shelves = shelves
        self._skips = bad == "skip"
        self._keep = keep
        shape = Shape(channels, (0, 0), None if size is None else fit)
        self._shape = replace(shape, size=self._first_size() if size is None else (size[0], size[1]))
        super().__init__(
            names=names,
            channels=channels,
            size=self._shape.size,
            batch_size=batch_size,
            labels=labels,
            workers=workers,
        )

    def load(self, name: Split) -> Pictures | None:
        """Every picture decoded once, or only its header where it stays on disk.

        Raises:
            RunError: a picture cannot be used and ``bad`` is ``error``, or none can.
        """
        shelf = self._shelves.get(name)
        if shelf is None:
            return None
        rows, in_memory = len(shelf.ids), self._fits(len(shelf.ids))
        images = torch.empty(rows if in_memory else 0, self._shape.channels, *self._shape.size, dtype=torch.uint8)
        good, wrong, modes = list[int](), list[str](), Counter[str]()
        for row in range(rows):
            try:
                picture = shelf.picture(row)
                mode = picture.mode
                if in_memory:
                    images[len(good)] = self._shape.bytes_of(picture, shelf.name(row))
                elif self._skips:
                    self._shape.bytes_of(picture, shelf.name(row))  # it may break off after a good header
                else:
                    check_mode(picture, shelf.name(row))
            except BadSampleError as error:
                if not self._skips:
                    raise RunError(f"{error}. {REMEDY}") from error
                wrong.append(str(error))
                continue
            modes[mode] += 1
            good.append(row)
        self.notes += left_out(name, wrong, rows)
        self.notes += conversions(modes, self._shape.channels, name)
        kept = torch.tensor(good)
        if in_memory:
            return from_bytes(images[: len(good)], shelf.labels[kept], shelf.ids[kept])
        return Streamed(Reader(shelf, self._shape), kept, shelf.labels[kept], shelf.ids[kept])

    def _fits(self, rows: int) -> bool:
        """Whether a split is kept in memory."""
        height, width = self._shape.size
        small = rows * self._shape.channels * height * width <= AUTO_LIMIT
        return self._keep == "memory" or (self._keep == "auto" and small)

    def _first_size(self) -> tuple[int, int]:
        """Of the first training picture whose header can be read."""
        shelf = self._shelves["train"]
        for row in range(len(shelf.ids)):
            try:
                picture = shelf.picture(row)
            except BadSampleError as error:
                if not self._skips:
                    raise RunError(f"{error}. {REMEDY}") from error
            else:
                return picture.height, picture.width
        raise RunError(f"{shelf.name(0)}: neither this nor any other training picture can be read")
