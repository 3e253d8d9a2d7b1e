"""The base of all data that lies as image files and mask files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from kdcore.data.bad import REMEDY, BadSampleError, left_out
from kdcore.data.base import Data, Split
from kdcore.data.loader import Batches, Samples
from kdcore.errors import RunError
from kdcore.signals import IGNORE, Batch
from torch import Tensor

from kdcore_segmentation.data.codes import VOID
from kdcore_segmentation.data.reading import Pair, Reader, size_of

MEMORY_LIMIT = 8 * 2**30
"""Bytes of one split that are kept in memory at most."""


class ImageMasks(Data):
    """Images and masks in files; see :class:`kdcore_segmentation.data.folders.Folders` for what the parameters mean.

    A batch holds ``image`` float32 (N, 3, H, W) in [0, 1], ``labels`` int64 (N, H, W) with -100 where a pixel has no
    class, and ``id`` int64 (N,).

    Args:
        splits: the files of each split, not empty.
        codes: what the values 0..255 of a mask mean.
        names: a name for each class, or nothing.

    Raises:
        RunError: the first image cannot be read.
        ValueError: a size below 2x2.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width")

    def __init__(
        self,
        *,
        splits: Mapping[Split, Sequence[Pair]],
        codes: Sequence[int],
        classes: int,
        names: Sequence[str] | None,
        batch_size: int,
        size: tuple[int, int] | None,
        bad: Literal["error", "skip"],
        keep: Literal["memory", "disk"],
        workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size)
        if size is not None and min(size) < 2:
            raise ValueError(f"size={list(size)}: give [height, width] in pixels")
        if workers < 0:
            raise ValueError(f"workers={workers}: give 0 or more")
        self._files = splits
        self._skips = bad == "skip"
        self._in_memory = keep == "memory"
        self._ready: dict[Split, Samples | Batches] = {}
        self.workers = 0 if self._in_memory else workers
        height, width = size or self._first_size()
        self._reader = Reader(codes, (height, width), resize=size is not None)
        self.class_names = None if names is None else tuple(names)
        self.facts = {"classes": classes, "channels": 3, "image_height": height, "image_width": width}

    def split(self, name: Split) -> Samples | Batches | None:
        """Read once, with everything that is wrong said, and kept.

        Raises:
            RunError: a sample cannot be used and ``bad`` is ``error``, or none can; the split is too large for memory.
        """
        if name not in self._files:
            return None
        if name not in self._ready:
            self._ready[name] = self._load(name, self._files[name])
        return self._ready[name]

    def _load(self, name: Split, pairs: Sequence[Pair]) -> Samples | Batches:
        height, width = self._reader.size
        rows = len(pairs) if self._in_memory else 0
        if 4 * rows * height * width > MEMORY_LIMIT:
            raise RunError(
                f"{len(pairs)} samples of {height}x{width} would take {4 * rows * height * width / 2**30:.0f} GiB of "
                f"memory, and at most {MEMORY_LIMIT // 2**30} are used: set a smaller `size`, or `keep: disk`"
            )
        if not self._in_memory and not self._skips:
            return Streamed(pairs, self._reader)
        images = torch.empty(rows, 3, height, width, dtype=torch.uint8)
        masks = torch.empty(rows, height, width, dtype=torch.uint8)
        good: list[Pair] = []
        wrong: list[str] = []
        for pair in pairs:
            try:
                image, mask = self._reader.read(pair)
            except BadSampleError as error:
                if not self._skips:
                    raise RunError(f"{error}. {REMEDY}") from error
                wrong.append(str(error))
                continue
            if self._in_memory:
                images[len(good)], masks[len(good)] = image, mask
            good.append(pair)
        self.notes += left_out(name, wrong, len(pairs))
        if not self._in_memory:
            return Streamed(good, self._reader)
        return Held(images[: len(good)], masks[: len(good)], torch.tensor([pair.id for pair in good]))

    def _first_size(self) -> tuple[int, int]:
        """Of the first training image whose header can be read."""
        for pair in self._files["train"]:
            try:
                return size_of(pair.image)
            except BadSampleError as error:
                if not self._skips:
                    raise RunError(f"{error}. {REMEDY}") from error
        raise RunError(f"{self._files['train'][0].image}: neither this nor any other training image can be read")


class Held:
    """Samples in memory, as bytes, fetched a batch at a time."""

    def __init__(self, images: Tensor, masks: Tensor, ids: Tensor) -> None:
        self._images, self._masks, self.ids = images, masks, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, index: Tensor | Sequence[int]) -> Batch:
        rows = torch.as_tensor(index)
        return {**as_sample(self._images[rows], self._masks[rows]), "id": self.ids[rows]}


class Streamed:
    """Samples that are read from disk each time, as samples of their own."""

    def __init__(self, pairs: Sequence[Pair], reader: Reader) -> None:
        missing = next((pair.mask for pair in pairs if not pair.mask.is_file()), None)
        if missing is not None:
            raise RunError(f"{missing}: there is no such file. {REMEDY}")
        self._pairs, self._reader = pairs, reader
        self.ids = torch.tensor([pair.id for pair in pairs])

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Batch:
        pair = self._pairs[index]
        try:
            image, mask = self._reader.read(pair)
        except BadSampleError as error:
            raise RunError(f"{error}. {REMEDY}") from error
        return {**as_sample(image, mask), "id": pair.id}


def as_sample(image: Tensor, mask: Tensor) -> Batch:
    """Bytes to what a task reads: ``image`` float32 in [0, 1], ``labels`` int64 with -100 for ``VOID``."""
    labels = mask.long()
    return {"image": image.float() / 255, "labels": labels.masked_fill_(labels == VOID, IGNORE)}
