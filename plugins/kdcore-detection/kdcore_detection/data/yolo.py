"""Boxes in YOLO's text files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from kdcore.data.bad import BadSampleError
from kdcore.data.base import Split
from kdcore.errors import RunError

from kdcore_detection.data.annotations import SPLITS, Annotated, annotated, collected, held_out, size_of
from kdcore_detection.data.files import BoxedFiles
from kdcore_detection.data.pictures import pictures_in


class Yolo(BoxedFiles):
    """A ``data.yaml`` with ``names``, ``train``, ``val`` and perhaps ``test``; labels in text beside the pictures.

    ``names`` is a list, or a mapping from the numbers 0, 1, ... . Each split is a folder of pictures, or a text file
    that lists some. The labels of ``.../images/a.jpg`` are in ``.../labels/a.txt``: a line for each box, its class's
    number, its centre, width and height as shares of the picture. A picture without that file has no box.

    Args:
        path: the file, or the folder that holds a ``data.yaml``.
        batch_size: pictures in a batch, over all devices together.
        size: [height, width] that every picture gets, in every split, its boxes with it; by default they must be equal
            already.
        fit: ``letterbox`` keeps the proportions and pads in grey; ``stretch`` does not keep them.
        validation: share of the training pictures held out for validation, where the file names no ``val``.
        test: share held out for the test, where it names neither ``val`` nor ``test``; 0 for no test split.
        labels: keep the boxes of only so many training pictures, chosen by the recipe's seed; the others stay, with
            their boxes unknown, for a teacher to speak about.
        bad: what to do with a picture or a box that cannot be used: stop at it, or leave it out and say so.
        keep: ``memory`` decodes every file once, ``disk`` each time; ``auto`` keeps splits up to 2 GiB in memory.
        workers: processes that read and transform pictures.

    Raises:
        RunError: a file or folder is missing, or is not what it should be; a picture or a box cannot be used.
    """

    def __init__(
        self,
        *,
        path: Path,
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
        path = Path(path)
        file = path / "data.yaml" if path.is_dir() else path
        content = _read(file)
        names = _names(content, file)
        splits = {
            split: collected(split, _pictures(file, content, split), lambda image: _annotated(image, len(names)))
            for split in SPLITS
            if content.get(split)
        }
        if "train" not in splits:
            raise RunError(f"{file}: names no pictures to `train` on")
        if "val" not in splits:
            splits |= held_out(splits["train"], validation, 0.0 if "test" in splits else test, file)
        super().__init__(
            splits=splits,
            names=names,
            batch_size=batch_size,
            size=size,
            fit=fit,
            labels=labels,
            bad=bad,
            keep=keep,
            workers=workers,
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{file}: there is no such file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{file}: is no YAML that can be read ({error})") from error
    if not isinstance(content, dict):
        raise RunError(f"{file}: holds no mapping with `names` and `train`")
    return content


def _names(content: dict[str, Any], file: Path) -> list[str]:
    given = content.get("names")
    if isinstance(given, dict) and sorted(map(str, given)) == sorted(map(str, range(len(given)))):
        given = [name for _, name in sorted(given.items(), key=lambda item: int(item[0]))]
    if not isinstance(given, list) or not given:
        raise RunError(f"{file}: `names` is neither a list nor a mapping from the numbers 0, 1, ... without a gap")
    if content.get("nc", len(given)) != len(given):
        raise RunError(f"{file}: `nc` is {content['nc']}, but there are {len(given)} `names`")
    return [str(name) for name in given]


def _pictures(file: Path, content: dict[str, Any], split: Split) -> list[Path]:
    """The pictures of a split, sorted."""
    given = str(content[split])
    base = file.parent / str(content.get("path") or "")
    tried = [base / given, base / given.removeprefix("../")]  # exports are often written so
    place = next((path for path in tried if path.exists()), None)
    if place is None:
        raise RunError(f"{file}: `{split}` is {given}, and {tried[0]} is not there")
    if place.is_dir():
        return pictures_in(place)
    lines = place.read_text(encoding="utf-8").splitlines()
    found = sorted(place.parent / line.strip() for line in lines if line.strip())
    if not found:
        raise RunError(f"{place}: lists no picture")
    return found


def _annotated(image: Path, classes: int) -> Annotated:
    file = labels_of(image)
    height, width = size_of(image)
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    boxes: list[list[float]] = []
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        label, centre_x, centre_y, box_width, box_height = _values(line, f"{file}:{number}", classes)
        left, top = (centre_x - box_width / 2) * width, (centre_y - box_height / 2) * height
        boxes.append([left, top, left + box_width * width, top + box_height * height])
        labels.append(int(label))
    return annotated(image, (height, width), boxes, labels, str(file))


def labels_of(image: Path) -> Path:
    """``a/images/b/c.jpg`` -> ``a/labels/b/c.txt``; the last folder ``images`` counts."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _values(line: str, where: str, classes: int) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError as error:
        raise BadSampleError(f"{where}: `{line.strip()[:80]}` is not made of numbers") from error
    if len(values) != 5:
        raise BadSampleError(
            f"{where}: has {len(values)} numbers, a box has five: class, centre x, centre y, width, height"
        )
    if values[0] not in range(classes):
        raise BadSampleError(f"{where}: is of class {values[0]:g}, the classes are 0 to {classes - 1}")
    return values
