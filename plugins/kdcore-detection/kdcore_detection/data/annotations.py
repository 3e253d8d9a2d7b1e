"""What is said about a picture, from whatever format, and whether its boxes can be used. No picture is opened here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from kdcore.data.bad import REMEDY, BadSampleError, left_out, listed
from kdcore.data.base import Split
from kdcore.data.pictures import opened
from kdcore.data.splits import stratified_order
from kdcore.errors import RunError

from kdcore_detection.data.orientation import shown_size

Array = np.ndarray[Any, Any]
Entry = TypeVar("Entry")

SPLITS: tuple[Split, ...] = ("train", "val", "test")

SPLIT_SEED = 1797
"""Fixes the split of data that brings none; the recipe's seed does not, so that all are tested on the same pictures."""

VAIN: dict[Split, str] = {"train": "there is nothing to learn", "val": "average precision has no value"}
"""What becomes of splits without a box."""

SLACK = 1.0
"""Pixels by which a box may stand out of its picture without a word: roundings, and formats that count from 1."""


@dataclass(frozen=True)
class Annotated:
    """A picture and its boxes.

    Attributes:
        image: the file.
        size: its (height, width) as it is shown, turned as EXIF says; as the annotations say where they do.
        boxes: float (M, 4), left, top, right and bottom in pixels of it; the first pixel is from 0 to 1.
        labels: int (M,), classes from 0 on.
        ignore: bool (M,): neither to be found nor an error to find (a crowd, a difficult object).
        where: what the annotations are called, for messages.
    """

    image: Path
    size: tuple[int, int]
    boxes: Array
    labels: Array
    ignore: Array
    where: str


@dataclass(frozen=True)
class Listing:
    """The pictures of one split.

    Attributes:
        ids: stable, one for each picture.
        wrong: a sentence for each picture that is left out.
        notes: what else a person should know.
        known: whether anybody has said what these pictures show.
    """

    samples: Sequence[Annotated]
    ids: Sequence[int]
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: bool = True

    def only(self, places: Sequence[int]) -> Listing:
        """Some of the pictures; all that was said stays."""
        return replace(self, samples=[self.samples[k] for k in places], ids=[self.ids[k] for k in places])


def annotated(
    image: Path, size: tuple[int, int], boxes: Sequence[Sequence[float]], labels: Sequence[int], where: str,
    ignore: Sequence[bool] = (),
) -> Annotated:  # fmt: skip
    """From plain lists; without ``ignore`` no box is ignored."""
    return Annotated(
        image=image,
        size=size,
        boxes=np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.asarray(labels, dtype=np.int64),
        ignore=np.asarray(ignore if len(ignore) else [False] * len(labels), dtype=bool),
        where=where,
    )


def collected(split: Split, entries: Sequence[Entry], read: Callable[[Entry], Annotated]) -> Listing:
    """Every picture that can be read; the ids are the places of the entries, whether they can be read or not."""
    samples: list[Annotated] = []
    ids: list[int] = []
    wrong: list[str] = []
    for place, entry in enumerate(entries):
        try:
            samples.append(read(entry))
        except BadSampleError as error:
            wrong.append(str(error))
        else:
            ids.append((SPLITS.index(split) << 32) + place)  # no two splits share one
    return Listing(samples, ids, wrong)


def size_of(image: Path) -> tuple[int, int]:
    """(height, width) as it is shown, turned as EXIF says; from the header alone.

    Raises:
        BadSampleError: the file is no picture.
    """
    with opened(image) as picture:
        return shown_size(picture)


def held_out(listing: Listing, validation: float, test: float, where: Path) -> dict[Split, Listing]:
    """A fixed share of the pictures for validation and test, the same whatever the recipe's seed.

    Raises:
        ValueError: shares that leave nothing to train on.
        RunError: too few pictures for one in each split.
    """
    if not (validation > 0 and test >= 0 and validation + test < 1):
        raise ValueError(
            f"validation={validation} and test={test}: give shares of the pictures, the first above 0, that leave some "
            "of them to train on"
        )
    total = len(listing.samples)
    tested, validated = (max(1, round(share * total)) if share > 0 else 0 for share in (test, validation))
    if tested + validated >= total:
        raise RunError(f"{where}: holds {total} pictures, too few to hold some out for validation")
    order = stratified_order(torch.zeros(total, dtype=torch.int64), SPLIT_SEED).tolist()
    held = tested + validated
    places: dict[Split, list[int]] = {"train": order[held:], "val": order[tested:held], "test": order[:tested]}
    divided = {name: listing.only(sorted(chosen)) for name, chosen in places.items() if chosen}
    # what is wrong with the folder is said once, with the split that all runs read
    return {name: one if name == "train" else replace(one, wrong=[], notes=[]) for name, one in divided.items()}


def checked(listing: Listing, split: Split, *, skip: bool) -> tuple[Listing, list[str]]:
    """The pictures with their boxes cut to the picture, and notes on all that was cut or left out.

    Raises:
        RunError: a picture or a box cannot be used and ``skip`` is false; no picture can be used; no box that is not
            ignored is there to train on, or to validate with.
    """
    if listing.wrong and not skip:
        raise RunError(f"{listing.wrong[0]}. {REMEDY}")
    notes = [*listing.notes, *left_out(split, listing.wrong, len(listing.samples) + len(listing.wrong))]
    samples: list[Annotated] = []
    wrong: list[str] = []
    cut: list[str] = []
    for sample in listing.samples:
        good, faults, outside = _cut_to_picture(sample)
        if faults and not skip:
            raise RunError(f"{faults[0]}. {REMEDY}")
        samples.append(good)
        wrong += faults
        cut += outside
    if not samples:
        raise RunError(f"the split `{split}` has no picture")
    if not listing.known:
        return replace(listing, samples=samples), notes
    if split in VAIN and all(sample.ignore.all() for sample in samples):
        raise RunError(f"none of the {len(samples)} pictures of the split `{split}` has a box to find: {VAIN[split]}")
    empty = sum(not len(sample.boxes) for sample in samples)
    if empty:
        notes.append(f"{empty} of {len(samples)} pictures of the split `{split}` have no box: they count as background")
    if wrong:
        left = f"{len(wrong)} boxes of the split `{split}` were left out: {listed(wrong)}"
        notes.append(f"{left}. What they show counts as background")
    if cut:
        notes.append(f"{len(cut)} boxes of the split `{split}` were cut to their picture: {listed(cut)}")
    return replace(listing, samples=samples), notes


def _cut_to_picture(sample: Annotated) -> tuple[Annotated, list[str], list[str]]:
    """The sample with good boxes only, what is wrong with the others, and which stood out by more than the slack."""
    height, width = sample.size
    boxes = sample.boxes
    if not len(boxes):
        return sample, [], []
    limit = np.array([width, height, width, height], dtype=np.float64)
    finite = np.isfinite(boxes).all(1)
    has_area = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    inside = np.clip(np.nan_to_num(boxes), 0, limit)
    meets = has_area & (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    outside = meets & (np.abs(inside - np.nan_to_num(boxes)) > SLACK).any(1)
    reasons = np.where(~finite, "is not made of numbers", np.where(~has_area, "has no area", "lies outside"))
    faults = [f"{_name(sample, k)} {reasons[k]}" for k in np.flatnonzero(~meets).tolist()]
    stood_out = [_name(sample, k) for k in np.flatnonzero(outside).tolist()]
    good = replace(sample, boxes=inside[meets], labels=sample.labels[meets], ignore=sample.ignore[meets])
    return good, faults, stood_out


def _name(sample: Annotated, box: int) -> str:
    corners = ", ".join(f"{value:g}" for value in sample.boxes[box])
    height, width = sample.size
    return f"{sample.where}: box {box + 1} of {len(sample.boxes)} [{corners}] of a picture of {height}x{width}"
