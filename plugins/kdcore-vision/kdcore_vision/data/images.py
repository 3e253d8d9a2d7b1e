"""What all data of this plugin have in common: bytes, names of classes, and how many of the labels are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

import torch
from kdcore.data.arrays import Columns
from kdcore.data.base import Data, Split
from kdcore.data.seeds import derive_seed
from kdcore.data.splits import keep_labels
from kdcore.signals import IGNORE, Batch
from torch import Tensor


class Held(Columns):
    """Pictures in memory, as bytes, fetched a batch at a time."""

    @property
    def labels(self) -> Tensor:
        return self.columns["labels"]

    def relabelled(self, labels: Tensor) -> Held:
        """The same pictures with other labels."""
        return Held({**self.columns, "labels": labels})

    def rows(self, index: Tensor) -> Held:
        return Held(self.__getitems__(index))


class Streamed:
    """Pictures that are read each time, as samples of their own.

    Args:
        read: gives the bytes (C, H, W) of a row of the source.
        source: int64 (N,), which row of the source each picture is.
    """

    def __init__(self, read: Callable[[int], Tensor], source: Tensor, labels: Tensor, ids: Tensor) -> None:
        self._read = read
        self._source = source
        self.labels = labels
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labelled(self) -> Tensor:
        """Which pictures have a label: bool (N,)."""
        return self.labels != IGNORE

    def __getitem__(self, index: int) -> Batch:
        image = self._read(int(self._source[index]))
        return {"image": image, "labels": int(self.labels[index]), "id": int(self.ids[index])}

    def relabelled(self, labels: Tensor) -> Streamed:
        """The same pictures with other labels."""
        return Streamed(self._read, self._source, labels, self.ids)


Pictures: TypeAlias = "Held | Streamed"


class Images(Data):
    """A batch holds ``image`` uint8 (N, C, H, W), ``labels`` int64 (N,), -100 where there is none, and ``id`` (N,).

    Args:
        names: of the classes, in the order of their numbers.
        channels: of a picture.
        size: (height, width) of every picture.
        labels: keep only so many training labels, evenly over the classes and chosen by the recipe's seed.
        workers: processes that load and transform.

    Raises:
        ValueError: fewer than two classes, or a number of workers below 0.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width", "class_names")

    def __init__(
        self,
        *,
        names: Sequence[str],
        channels: int,
        size: tuple[int, int],
        batch_size: int,
        labels: int | None,
        workers: int,
    ) -> None:
        super().__init__(batch_size=batch_size)
        if workers < 0:
            raise ValueError(f"workers={workers}: give 0 or more")
        if len(names) < 2:
            raise ValueError(f"there are {len(names)} classes: there must be at least two to tell apart")
        self.workers = workers
        self.class_names = tuple(names)
        self.facts = {
            "classes": len(names),
            "channels": channels,
            "image_height": size[0],
            "image_width": size[1],
            "class_names": list(names),
        }
        self._labels = labels
        self._loaded: dict[Split, Pictures | None] = {}
        self._training: Pictures | None = None

    def load(self, name: Split) -> Pictures | None:
        """One split, with all of its labels; called once."""
        raise NotImplementedError(f"{type(self).__name__} does not implement load(name)")

    def split(self, name: Split) -> Pictures | None:
        """Read once, with everything that is wrong said, and kept."""
        if name == "train" and self._training is not None:
            return self._training
        if name not in self._loaded:
            self._loaded[name] = self.load(name)
        pictures = self._loaded[name]
        if name != "train" or pictures is None or self._labels is None:
            return pictures
        kept = keep_labels(pictures.labels, self._labels, derive_seed(self.seed, "labels"))
        self._training = pictures.relabelled(kept)
        return self._training


def from_bytes(images: Tensor, labels: Tensor, ids: Tensor) -> Held:
    """Pictures in memory from uint8 (N, C, H, W), labels and ids."""
    return Held({"image": images, "labels": labels.to(torch.int64), "id": ids.to(torch.int64)})
