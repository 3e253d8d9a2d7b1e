"""Boxes in COCO's JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from kdcore.data.bad import BadSampleError, listed
from kdcore.data.base import Split
from kdcore.errors import RunError

from kdcore_detection.data.annotations import (
    SPLITS,
    Annotated,
    Listing,
    annotated,
    collected,
    held_out,
    size_of,
)
from kdcore_detection.data.files import BoxedFiles

ANNOTATIONS = {"train": "annotations/instances_train2017.json", "val": "annotations/instances_val2017.json"}
IMAGES = {"train": "train2017", "val": "val2017"}
"""As COCO 2017 is unpacked."""


class Coco(BoxedFiles):
    """A JSON file and a folder of pictures for each split, as COCO has them.

    Category numbers may have gaps: the categories of the training file, by number, are the classes 0, 1, ... and keep
    their names. ``iscrowd`` makes a box one to be ignored. Other splits must mean the same by the same number.

    Args:
        path: what the other paths are below.
        annotations: the JSON file of each split, ``train`` at least; those of COCO 2017 by default.
        images: the folder of each split's pictures; by default those of COCO 2017, or where ``annotations`` are given,
            the folder that holds the JSON file.
        batch_size: pictures in a batch, over all devices together.
        size: [height, width] that every picture gets, in every split, its boxes with it; by default they must be equal
            already.
        fit: ``letterbox`` keeps the proportions and pads in grey; ``stretch`` does not keep them.
        validation: share of the training pictures held out for validation, where ``annotations`` have no ``val``.
        test: share held out for the test, where they have neither ``val`` nor ``test``; 0 for no test split.
        labels: keep the boxes of only so many training pictures, chosen by the recipe's seed; the others stay, with
            their boxes unknown, for a teacher to speak about.
        bad: what to do with a picture or a box that cannot be used: stop at it, or leave it out and say so.
        keep: ``memory`` decodes every file once, ``disk`` each time; ``auto`` keeps splits up to 2 GiB in memory.
        workers: processes that read and transform pictures.

    Raises:
        RunError: a file is missing or is not COCO's; a picture or a box cannot be used.

    **Source**: Lin et al., Microsoft COCO: Common Objects in Context, 2014 (arXiv 1405.0312).
    """

    def __init__(
        self,
        *,
        path: Path,
        annotations: dict[str, str] | None = None,
        images: dict[str, str] | None = None,
        batch_size: int = 16,
        size: tuple[int, int] | None = None,
        fit: Literal["letterbox", "stretch"] = "letterbox",
        validation: float = 0.1,
        test: float = 0.0,
        labels: int | None = None,
        bad: Literal["error", "skip"] = "error",
        keep: Literal["auto", "memory", "disk"] = "auto",
        workers: int = 0,
    ) -> None:
        files, folders = _places(Path(path), annotations, images)
        contents = {split: _read(file) for split, file in files.items()}
        categories = _categories(contents["train"], files["train"])
        for split, content in contents.items():
            _check_same(categories, _categories(content, files[split]), files[split], files["train"])
        splits = {
            split: _listing(content, files[split], folders[split], list(categories), split)
            for split, content in contents.items()
        }
        if "val" not in splits:
            splits |= held_out(splits["train"], validation, 0.0 if "test" in splits else test, files["train"])
        super().__init__(
            splits=splits,
            names=list(categories.values()),
            batch_size=batch_size,
            size=size,
            fit=fit,
            labels=labels,
            bad=bad,
            keep=keep,
            workers=workers,
        )


def _places(
    path: Path, annotations: dict[str, str] | None, images: dict[str, str] | None
) -> tuple[dict[Split, Path], dict[Split, Path]]:
    """The file and the folder of each split.

    Raises:
        ValueError: a split that there is not, or none to train on.
    """
    given = ANNOTATIONS if annotations is None else annotations
    folders = images or (IMAGES if annotations is None else {})
    for name, mapping in (("annotations", given), ("images", folders)):
        unknown = sorted(mapping.keys() - set(SPLITS))
        if unknown:
            raise ValueError(f"{name}: there is no split `{unknown[0]}`; write train, val and test")
    if "train" not in given:
        raise ValueError("annotations: name at least the file to `train` on")
    files: dict[Split, Path] = {split: path / given[split] for split in SPLITS if split in given}
    return files, {split: path / folders[split] if split in folders else file.parent for split, file in files.items()}


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise RunError(f"{file}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: is no JSON that can be read ({error})") from error
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(_get(content, key), list)]
    if missing:
        raise RunError(f"{file}: has no list `{missing[0]}`, which COCO's format has")
    known: dict[str, Any] = content
    return known


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def _categories(content: dict[str, Any], file: Path) -> dict[int, str]:
    """Number in the file -> name, by number."""
    found: dict[int, str] = {}
    for entry in content["categories"]:
        number, name = _get(entry, "id"), _get(entry, "name")
        if not isinstance(number, int) or not isinstance(name, str):
            raise RunError(f"{file}: the category {json.dumps(entry)} has no number `id` and text `name`")
        if found.setdefault(number, name) != name:
            raise RunError(f"{file}: the categories `{found[number]}` and `{name}` have one id, {number}")
    if not found:
        raise RunError(f"{file}: has no category")
    return dict(sorted(found.items()))


def _check_same(ours: Mapping[int, str], theirs: Mapping[int, str], file: Path, train: Path) -> None:
    """Raise where another split's file means something else by a number."""
    for number, name in theirs.items():
        if ours.get(number) != name:
            known = f"`{ours[number]}`" if number in ours else "no category"
            raise RunError(f"{file}: the category {number} is `{name}`, and in {train} it is {known}")


def _listing(content: dict[str, Any], file: Path, folder: Path, numbers: list[int], split: Split) -> Listing:
    place = {number: label for label, number in enumerate(numbers)}
    by_image = _by_image(content, file)
    orphans = by_image.keys() - {entry["id"] for entry in content["images"]}
    if orphans:
        counts = [f"{len(by_image[image])} of image {image}" for image in sorted(orphans, key=str)]
        raise RunError(f"{file}: annotations belong to images that are not among `images`: {listed(counts)}")
    # by name, so that an id does not depend on the order in the file
    entries = sorted(content["images"], key=lambda entry: str(entry.get("file_name")))
    return collected(
        split, entries, lambda entry: _annotated(entry, by_image.get(entry["id"], []), file, folder, place)
    )


def _by_image(content: dict[str, Any], file: Path) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for entry in content["annotations"]:
        if _get(entry, "image_id") is None:
            raise RunError(f"{file}: the annotation {json.dumps(entry)[:200]} has no `image_id`")
        found[entry["image_id"]].append(entry)
    numbers = [_get(entry, "id") for entry in content["images"]]
    if None in numbers or len(set(numbers)) < len(numbers):
        raise RunError(f"{file}: the `id` of an image is missing or occurs twice")
    return dict(found)


def _annotated(
    entry: dict[str, Any], boxes: list[dict[str, Any]], file: Path, folder: Path, place: dict[int, int]
) -> Annotated:
    name = entry.get("file_name")
    if not isinstance(name, str):
        raise BadSampleError(f"{file}: the image {json.dumps(entry)[:200]} has no `file_name`")
    where = f"{file}: `{name}`"
    height, width = entry.get("height"), entry.get("width")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else size_of(folder / name)
    corners: list[list[float]] = []
    labels: list[int] = []
    for box in boxes:
        if box.get("category_id") not in place:
            raise RunError(f"{where} has a box of category {box.get('category_id')}, which is not among `categories`")
        given = box.get("bbox")
        if not (isinstance(given, list) and len(given) == 4 and all(isinstance(one, int | float) for one in given)):
            raise BadSampleError(f"{where} has a box {json.dumps(given)}, which is not [left, top, width, height]")
        left, top, box_width, box_height = given
        corners.append([left, top, left + box_width, top + box_height])
        labels.append(place[box["category_id"]])
    return annotated(folder / name, size, corners, labels, where, [bool(box.get("iscrowd")) for box in boxes])
