"""The base of all data that lies as pictures in files, whatever the format of their boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from kdcore.data.bad import REMEDY, BadSampleError, left_out
from kdcore.data.base import Data, Split
from kdcore.data.pictures import decoded, opened
from kdcore.data.seeds import derive_seed
from kdcore.errors import RunError
from torch import Tensor

from kdcore_detection.data.annotations import Annotated, Listing, checked
from kdcore_detection.data.fitting import Fit
from kdcore_detection.data.orientation import orientation_of, shown_size, upright
from kdcore_detection.data.samples import Held, Streamed, Targets, collate, is_standing, without_boxes

AUTO_LIMIT = 2 * 2**30
"""Bytes of one split that ``keep: auto`` puts into memory at most."""


class BoxedFiles(Data):
    """Pictures in files, and what is said about them; a subclass reads one format.

    A batch holds ``image`` float32 (N, 3, H, W) in [0, 1], ``boxes`` float32 (N, M, 4) in pixels of it, left, top,
    right and bottom, ``box_labels`` int64 (N, M), -100 where padded, ``box_ignore`` bool (N, M), ``boxes_known`` bool
    (N,), False where ``labels`` hide them, and ``id`` int64 (N,). A picture is turned as its EXIF says, and boxes are
    those of the turned one.

    Args:
        splits: the pictures of each split, ``train`` and ``val`` at least.
        names: of the classes.

    Raises:
        RunError: a picture or a box cannot be used.
        ValueError: a size below 2x2, or fewer than no workers.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width")
    collate = staticmethod(collate)
    without_labels = staticmethod(without_boxes)

    def __init__(
        self,
        *,
        splits: Mapping[Split, Listing],
        names: Sequence[str],
        batch_size: int,
        size: tuple[int, int] | None,
        fit: Literal["letterbox", "stretch"],
        labels: int | None,
        bad: Literal["error", "skip"],
        keep: Literal["auto", "memory", "disk"],
        workers: int,
    ) -> None:
        super().__init__(batch_size=batch_size)
        if size is not None and min(size) < 2:
            raise ValueError(f"size={list(size)}: give [height, width] in pixels")
        if workers < 0:
            raise ValueError(f"workers={workers}: give 0 or more")
        self.workers = workers
        self.class_names = tuple(names)
        self._labels = labels
        self._skips = bad == "skip"
        self._keep = keep
        self._listings: dict[Split, Listing] = {}
        for name, listing in splits.items():
            self._listings[name], notes = checked(listing, name, skip=self._skips)
            self.notes += notes
        height, width = size or self._common_size()
        self._fit = Fit((height, width), fit)
        self._ready: dict[Split, Held | Streamed] = {}
        self.facts = {"classes": len(names), "channels": 3, "image_height": height, "image_width": width}

    def split(self, name: Split) -> Held | Streamed | None:
        """Read once, and kept.

        Raises:
            RunError: a picture cannot be read and ``bad`` is ``error``, or none can.
        """
        if name not in self._listings:
            return None
        if name not in self._ready:
            self._ready[name] = self._load(name)
        samples = self._ready[name]
        if name == "train" and self._labels is not None:
            return samples.hiding(self._labels, derive_seed(self.seed, "labels"))
        return samples

    def _load(self, name: Split) -> Held | Streamed:
        listing = self._listings[name]
        read = Reader(listing.samples, self._fit)
        in_memory = self._fits(len(listing.samples))
        images = torch.empty(len(listing.samples) if in_memory else 0, 3, *self._fit.size, dtype=torch.uint8)
        good: list[int] = []
        wrong: list[str] = []
        for row, sample in enumerate(listing.samples):
            try:
                if in_memory:
                    images[len(good)] = read.picture(row)
                elif self._skips:
                    read.picture(row)  # it may break off after a good header
                elif not sample.image.is_file():
                    raise BadSampleError(f"{sample.image}: there is no such file")
            except BadSampleError as error:
                if not self._skips:
                    raise RunError(f"{error}. {REMEDY}") from error
                wrong.append(str(error))
                continue
            good.append(row)
        self.notes += left_out(name, wrong, len(listing.samples))
        kept = listing.only(good)
        targets = self._targets(kept)
        slivers = sum(int((~is_standing(boxes)).sum()) for boxes in targets.boxes)
        if slivers:
            height, width = self._fit.size
            self.notes.append(
                f"{slivers} boxes of the split `{name}` are left out: in pictures of {height}x{width} they are less "
                "than a pixel high or wide"
            )
        if in_memory:
            return Held(images[: len(good)], targets)
        return Streamed(Reader(kept.samples, self._fit), targets)

    def _targets(self, listing: Listing) -> Targets:
        return Targets(
            ids=torch.tensor(listing.ids),
            boxes=[self._fit.boxes(sample.boxes, sample.size) for sample in listing.samples],
            labels=[torch.from_numpy(sample.labels) for sample in listing.samples],
            ignore=[torch.from_numpy(sample.ignore) for sample in listing.samples],
            known=None if listing.known else torch.zeros(len(listing.samples), dtype=torch.bool),
        )

    def _fits(self, rows: int) -> bool:
        """Whether a split is kept in memory."""
        height, width = self._fit.size
        return self._keep == "memory" or (self._keep == "auto" and rows * 3 * height * width <= AUTO_LIMIT)

    def _common_size(self) -> tuple[int, int]:
        """Of all pictures, where the recipe gives none."""
        first = self._listings["train"].samples[0]
        for listing in self._listings.values():
            for sample in listing.samples:
                if sample.size != first.size:
                    raise RunError(
                        f"{sample.image} is {sample.size[0]}x{sample.size[1]}, {first.image} is "
                        f"{first.size[0]}x{first.size[1]}: set `size: [HEIGHT, WIDTH]`, to which all are brought"
                    )
        return first.size


@dataclass(frozen=True)
class Reader:
    """Reads the pictures of a listing by row. Workers are sent it by pickle."""

    samples: Sequence[Annotated]
    fit: Fit

    def __call__(self, row: int) -> Tensor:
        """For training: what cannot be read stops the run."""
        try:
            return self.picture(row)
        except BadSampleError as error:
            raise RunError(f"{error}. {REMEDY}") from error

    def picture(self, row: int) -> Tensor:
        """uint8 (3, H, W), turned as EXIF says: so those saw it who drew the boxes.

        Raises:
            BadSampleError: it cannot be decoded, or is of another size than its boxes were made for.
        """
        sample = self.samples[row]
        with opened(sample.image) as picture:
            orientation, (height, width) = orientation_of(picture), shown_size(picture)
            if (height, width) != sample.size:
                turned = "" if orientation == 1 else f" when turned as its EXIF says ({orientation})"
                raise BadSampleError(
                    f"{sample.image}: is {height}x{width}{turned}, but {sample.where} says "
                    f"{sample.size[0]}x{sample.size[1]}: its boxes would be elsewhere"
                )
            return self.fit.image(upright(decoded(picture, str(sample.image), "RGB"), orientation))
