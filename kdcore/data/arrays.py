"""Data from a NumPy archive, held in memory and fetched a batch at a time."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kdcore.data.base import Data, Split
from kdcore.data.seeds import derive_seed
from kdcore.data.splits import keep_labels, stratified_order
from kdcore.errors import RunError
from kdcore.signals import IGNORE, Batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SPLIT_SEED = 1797
"""Fixes the split of data that brings none. Not the recipe's seed, so that all seeds are tested on the same rows."""


class Columns:
    """Tensors of equal length, indexed a batch at a time.

    Args:
        columns: name -> tensor (N, ...); ``id`` must be among them.

    Raises:
        ValueError: no ``id``, or lengths that differ.
    """

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        if "id" not in columns:
            raise ValueError(f"the columns {', '.join(columns)} lack `id`, a stable integer for each sample")
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(self.columns["id"])

    @property
    def ids(self) -> Tensor:
        """Every sample's, so that nothing else need be read for them."""
        return self.columns["id"]

    @property
    def labelled(self) -> Tensor:
        """Which samples have a label, of a class or of any of their pixels: bool (N,)."""
        labels = self.columns.get("labels", torch.full_like(self.ids, IGNORE))
        return (labels != IGNORE).reshape(len(self), -1).any(-1)

    def __getitems__(self, index: Tensor | Sequence[int]) -> Batch:
        """The rows of a batch: each column (len(index), ...), copied."""
        index = torch.as_tensor(index)
        return {name: column.index_select(0, index) for name, column in self.columns.items()}

    def rows(self, index: Tensor) -> Columns:
        """Some of the rows, as columns of their own."""
        return Columns(self.__getitems__(index))


class Arrays(Data):
    """A ``.npz`` file with ``x`` and ``y``, and optionally ``split``.

    ``x`` is images (N, H, W) or (N, C, H, W), or vectors (N, F). uint8 is divided by 255, so that it is in [0, 1];
    other numbers are taken as they are, in float32. (N, H, W) gets a channel axis. ``y`` (N,) holds class numbers
    0..K-1, and -100 where a sample has none. ``split`` (N,) holds the words ``train``, ``val`` and ``test``;
    without it a fixed share of each class is held out, the same whatever the recipe's seed.

    Args:
        path: the file; never unpickled.
        batch_size: samples in a batch, over all devices together.
        validation: share of the samples held out for validation, where there is no ``split``.
        test: share held out for the test; 0 for no test split.
        labels: keep only so many training labels, evenly over the classes and chosen by the recipe's seed; the other
            samples stay, with the label -100, for a teacher to speak about.

    Raises:
        RunError: the file is missing, damaged or does not hold what it should.
        ValueError: shares that leave nothing to train on.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("classes", "channels", "image_height", "image_width", "features")

    def __init__(
        self,
        *,
        path: Path,
        batch_size: int = 128,
        validation: float = 0.1,
        test: float = 0.1,
        labels: int | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size)
        if not (validation > 0 and test >= 0 and validation + test < 1):
            raise ValueError(
                f"validation={validation} and test={test}: give shares of the data, the first above 0, that leave "
                "some of it to train on"
            )
        arrays = _read(Path(path))
        image, y = _inputs(arrays["x"], path), _labels(arrays["y"], path)
        if len(image) != len(y):
            raise RunError(f"{path}: `x` has {len(image)} rows and `y` has {len(y)}")
        self._labels = labels
        everything = Columns({"image": image, "labels": y, "id": torch.arange(len(y))})
        rows = (
            _given_split(arrays["split"], len(y), path) if "split" in arrays else _made_split(y, validation, test, path)
        )
        self._splits = {name: everything.rows(index) for name, index in rows.items()}
        self.facts = {"classes": int(y.max()) + 1, "features": image[0].numel()}
        if image.ndim == 4:
            self.facts.update(zip(("channels", "image_height", "image_width"), image.shape[1:], strict=True))

    def split(self, name: Split) -> Columns | None:
        columns = self._splits.get(name)
        if columns is not None and name == "train" and self._labels is not None:
            kept = keep_labels(columns.columns["labels"], self._labels, derive_seed(self.seed, "labels"))
            columns = Columns({**columns.columns, "labels": kept})
        return columns


def _read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of the file that we know, checked to be there."""
    if not path.is_file():
        raise RunError(f"{path}: there is no such file")
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is not a NumPy archive: write it with numpy.savez(path, x=..., y=...)") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise RunError(f"{path} holds one bare array: write it with numpy.savez(path, x=..., y=...)")
    with archive:
        missing = [f"`{name}`" for name in ("x", "y") if name not in archive.files]
        if missing:
            there = ", ".join(archive.files) or "nothing"
            raise RunError(f"{path} lacks the array {' and '.join(missing)} (it holds: {there})")
        return {name: _array(archive, name, path) for name in ("x", "y", "split") if name in archive.files}


def _array(archive: Mapping[str, np.ndarray[Any, Any]], name: str, path: Path) -> np.ndarray[Any, Any]:
    try:
        return archive[name]
    except ValueError as error:  # an array of Python objects is a pickle
        raise RunError(f"{path}: `{name}` holds Python objects, which are not read: store numbers or text") from error
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path}: `{name}` is damaged: {error}") from error


def _inputs(x: np.ndarray[Any, Any], path: Path) -> Tensor:
    """``x`` as float32 (N, C, H, W) or (N, F)."""
    if x.dtype.kind not in "uifb":
        raise RunError(f"{path}: `x` has the type {x.dtype}: give numbers")
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise RunError(f"{path}: `x` has the shape {x.shape}: give (N, F), (N, H, W) or (N, C, H, W), none of them 0")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is reported below
        values = torch.from_numpy(x.astype(np.float32))
    if x.dtype == np.uint8:
        values = values / 255
    broken = ~values.flatten(1).isfinite().all(1)
    if broken.any():
        row = int(broken.nonzero()[0])
        raise RunError(f"{path}: `x` holds NaN or infinity in {int(broken.sum())} of {len(x)} rows, first in row {row}")
    return values.unsqueeze(1) if x.ndim == 3 else values


def _labels(y: np.ndarray[Any, Any], path: Path) -> Tensor:
    """``y`` as int64 (N,), every class 0..K-1 present."""
    if y.dtype.kind not in "ui" or y.ndim != 1:
        raise RunError(f"{path}: `y` has the type {y.dtype} and the shape {y.shape}: give class numbers, integers (N,)")
    labels = torch.from_numpy(y.astype(np.int64))
    wrong = (labels < 0) & (labels != IGNORE)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise RunError(
            f"{path}: `y` holds {int(labels[row])} in row {row}: class numbers start at 0, and {IGNORE} means no label"
        )
    present = torch.unique(labels[labels != IGNORE])
    if len(present) == 0:
        raise RunError(f"{path}: `y` holds no label")
    if len(present) <= int(present[-1]):
        absent = next(number for number in range(int(present[-1])) if number not in present)
        raise RunError(
            f"{path}: `y` goes up to {int(present[-1])}, but no sample has class {absent}: number the classes "
            "0..K-1 without gaps"
        )
    return labels


def _given_split(split: np.ndarray[Any, Any], n: int, path: Path) -> dict[str, Tensor]:
    if split.shape != (n,):
        raise RunError(f"{path}: `split` has the shape {split.shape}, `x` has {n} rows")
    unknown = sorted({str(word) for word in np.unique(split)} - {"train", "val", "test"})
    if unknown:
        raise RunError(f"{path}: `split` holds {', '.join(map(repr, unknown[:5]))}: write 'train', 'val' or 'test'")
    return _without_empty(
        {name: torch.from_numpy(np.flatnonzero(split == name)) for name in ("train", "val", "test")}, path
    )


def _made_split(labels: Tensor, validation: float, test: float, path: Path) -> dict[str, Tensor]:
    order = stratified_order(labels, SPLIT_SEED)
    tests, vals = round(test * len(order)), round(validation * len(order))
    parts = torch.split(order, [tests, vals, len(order) - tests - vals])
    return _without_empty(
        dict(zip(("test", "val", "train"), (part.sort().values for part in parts), strict=True)), path
    )


def _without_empty(rows: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    for name in ("train", "val"):
        if len(rows[name]) == 0:
            raise RunError(f"{path}: no row is left for the {name} split")
    return {name: index for name, index in rows.items() if len(index)}
