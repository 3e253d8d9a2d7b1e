"""The data sets that torchvision knows, where they lie on disk already."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from kdcore.data.bad import BadSampleError, reason
from kdcore.errors import RunError, did_you_mean
from PIL import Image
from torch import Tensor

from kdcore_vision.data.files import Shelf, Shelves
from kdcore_vision.data.listing import Picture, Split, checked_names, held_out, stable_id

SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""What torchvision calls them."""

ID_SPACE = 1 << 32
"""Ids of each of torchvision's parts begin at a multiple of this."""


class Torchvision(Shelves):
    """A data set of ``torchvision.datasets`` by name: ``{use: vision.torchvision, name: CIFAR10, path: ~/data}``.

    It must be on disk: nothing is downloaded. The parts that torchvision knows (``train=True`` or ``split="train"``,
    ``val``, ``test``) are used as they are; where there is none for validation, a fixed share of each class is held
    out.

    Args:
        name: of the class, such as ``CIFAR10``, ``FashionMNIST``, ``Flowers102``, ``Food101``, ``OxfordIIITPet``.
        path: its ``root``: the folder above the data set's own.
        options: further keywords, such as ``{split: balanced}`` of ``EMNIST``; not ``train``, ``download`` and
            ``transform``.
        class_names: the names in another order, that of your teacher.
        validation: share of each class held out for validation, where torchvision knows no such part.
        batch_size, size, fit, channels, labels, bad, keep, workers: as for ``vision.folders``.

    Raises:
        RunError: torchvision has no such data set, does not find it on disk, or it is not one of single labels.
        ValueError: shares that leave nothing to train on.
    """

    def __init__(
        self,
        *,
        name: str,
        path: Path,
        options: dict[str, Any] | None = None,
        batch_size: int = 64,
        size: tuple[int, int] | None = None,
        fit: Literal["crop", "stretch"] = "crop",
        channels: Literal[1, 3] = 3,
        class_names: list[str] | None = None,
        validation: float = 0.1,
        labels: int | None = None,
        bad: Literal["error", "skip"] = "error",
        keep: Literal["auto", "memory", "disk"] = "auto",
        workers: int = 0,
    ) -> None:
        path = Path(path)
        parts = _parts(name, path, dict(options or {}))
        found = _names(parts["train"], targets_of(parts["train"], name))
        names = checked_names(class_names, found, path)
        number = [names.index(one) for one in found]
        super().__init__(
            shelves=_shelves(parts, name, names, number, validation, path),
            names=names,
            channels=channels,
            size=size,
            fit=fit,
            batch_size=batch_size,
            labels=labels,
            bad=bad,
            keep=keep,
            workers=workers,
        )


class SetShelf:
    """Some rows of one of torchvision's data sets."""

    def __init__(self, data: Any, name: str, rows: list[int], labels: Tensor, ids: Tensor) -> None:
        self._data, self._name, self._rows = data, name, rows
        self.labels, self.ids = labels, ids

    def picture(self, row: int) -> Image.Image:
        try:
            picture = self._data[self._rows[row]][0]
        except Exception as error:  # each data set reads in its own way
            raise BadSampleError(f"{self.name(row)}: cannot be read ({reason(error)})") from error
        if not isinstance(picture, Image.Image):
            raise BadSampleError(f"{self.name(row)}: is a {type(picture).__name__}, not a picture")
        return picture

    def name(self, row: int) -> str:
        return f"{self._name}, row {self._rows[row]}"


def _shelves(
    parts: Mapping[Split, Any], name: str, names: list[str], number: list[int], validation: float, path: Path
) -> dict[Split, Shelf]:
    labels = {split: torch.tensor(number)[torch.tensor(targets_of(part, name))] for split, part in parts.items()}
    rows: dict[Split, tuple[Split, list[int]]] = {
        split: (split, list(range(len(own)))) for split, own in labels.items()
    }
    if "val" not in parts:
        everything = [
            Picture(Path(f"{row:012}"), label, stable_id(str(row)))
            for row, label in enumerate(labels["train"].tolist())
        ]
        for split, some in held_out(everything, names, validation, 0.0, path).items():
            rows[split] = "train", [int(one.path.name) for one in some]
    return {
        split: SetShelf(
            parts[part],
            f"{name} {part}",
            own,
            labels[part][torch.tensor(own)],
            torch.tensor(own) + list(SPLITS).index(part) * ID_SPACE,
        )
        for split, (part, own) in rows.items()
    }


def _parts(name: str, path: Path, options: dict[str, Any]) -> dict[Split, Any]:
    """torchvision's own parts, at least ``train``."""
    from torchvision import datasets  # takes a second to import

    kind = getattr(datasets, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, datasets.VisionDataset) and "root" in _keywords(kind)):
        known = {key.lower(): key for key, one in vars(datasets).items() if "root" in _keywords(one)}
        hint = did_you_mean(known.get(name.lower(), name), known.values())
        raise RunError(f"torchvision.datasets has no data set `{name}` of pictures; {hint}")
    for option in ("train", "download", "transform", "root"):
        if option in options:
            raise RunError(f"options.{option}: is set by vision.torchvision itself")
    keywords = _keywords(kind)
    if "split" in keywords and "split" not in options:
        choices: dict[Split, list[dict[str, Any]]] = {
            split: [{"split": word} for word in words] for split, words in SPLITS.items()
        }
    elif "train" in keywords or "split" in options:
        choices = {"train": [{"train": True}], "val": [], "test": [{"train": False}]}
    else:
        choices = {"train": [{}], "val": [], "test": []}
    found = {split: _first(kind, path, options, tried) for split, tried in choices.items()}
    parts = {split: part for split, (part, _) in found.items() if part is not None}
    if "train" not in parts:
        raise RunError(f"{path}: torchvision does not find {name} there ({found['train'][1]}); nothing is downloaded")
    return parts


def _first(kind: Any, path: Path, options: dict[str, Any], tried: list[dict[str, Any]]) -> tuple[Any, str]:
    """The first of several ways to make a part that works, or why the first does not."""
    why = ""
    for keywords in tried:
        try:
            return kind(str(path), **options, **keywords), ""
        except (RuntimeError, ValueError, TypeError, OSError) as error:  # not on disk, or no such split
            why = why or reason(error)
    return None, why


def _keywords(kind: Any) -> Mapping[str, Any]:
    """The keywords of a class; none of anything else."""
    return inspect.signature(kind.__init__).parameters if inspect.isclass(kind) else {}


def targets_of(data: Any, name: str) -> list[int]:
    """The class number of every row; reads all of them, where the data set does not tell.

    Raises:
        RunError: they are no single class numbers.
    """
    for attribute in ("targets", "labels", "_labels"):
        found = getattr(data, attribute, None)
        if found is not None and len(found) == len(data):
            targets = torch.as_tensor(found)
            break
    else:
        targets = torch.as_tensor([data[row][1] for row in range(len(data))])
    if targets.ndim != 1 or targets.is_floating_point():
        raise RunError(f"{name}: gives targets of shape {tuple(targets.shape)}, not one class number for each picture")
    return [int(target) for target in targets]


def _names(data: Any, targets: list[int]) -> list[str]:
    """The names that the data set has for its classes, else their numbers."""
    names = [str(name) for name in getattr(data, "classes", ())]
    count = max(targets) + 1
    return names if len(names) >= count and len(set(names)) == len(names) else [str(number) for number in range(count)]
