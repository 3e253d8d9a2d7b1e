"""Boxes in Pascal VOC's XML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from kdcore.data.bad import BadSampleError
from kdcore.data.base import Split
from kdcore.errors import RunError, did_you_mean

from kdcore_detection.data.annotations import SPLITS, Annotated, Listing, annotated, collected, held_out
from kdcore_detection.data.files import BoxedFiles

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG")
FLAG = re.compile(r"\s+(-1|0|1)$")
"""What the list of a class has behind a name: whether the class occurs."""

SIDES = ("xmin", "ymin", "xmax", "ymax")


class PascalVoc(BoxedFiles):
    """``PATH/Annotations/*.xml``, ``PATH/JPEGImages`` and the lists of names ``PATH/ImageSets/Main/*.txt``.

    VOC counts pixels from 1, and a box includes its last: one from 1 to the width of the picture is as wide as that.
    So 1 is subtracted from the left and the top. One whose first pixel is its last has no area here: drawn by a click,
    not by a drag. ``difficult`` objects are ignored, neither to be found nor wrong to find.

    Args:
        path: holds the three folders.
        lists: the name of each split's list; by default ``train``, ``val`` and, where that file is, ``test``.
        class_names: the classes in their order; by default those that occur in any list, sorted.
        batch_size: pictures in a batch, over all devices together.
        size: [height, width] that every picture gets, in every split, its boxes with it; by default they must be equal
            already.
        fit: ``letterbox`` keeps the proportions and pads in grey; ``stretch`` does not keep them.
        validation: share of the training pictures held out for validation, where ``lists`` have no ``val``.
        test: share held out for the test, where they have neither ``val`` nor ``test``; 0 for no test split.
        labels: keep the boxes of only so many training pictures, chosen by the recipe's seed; the others stay, with
            their boxes unknown, for a teacher to speak about.
        bad: what to do with a picture or a box that cannot be used: stop at it, or leave it out and say so.
        keep: ``memory`` decodes every file once, ``disk`` each time; ``auto`` keeps splits up to 2 GiB in memory.
        workers: processes that read and transform pictures.

    Raises:
        RunError: a list is missing or empty; an object has no class among ``class_names``; a picture or a box cannot be
            used.

    **Source**: Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010.
    """

    def __init__(
        self,
        *,
        path: Path,
        lists: dict[str, str] | None = None,
        class_names: list[str] | None = None,
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
        files = _lists(path / "ImageSets" / "Main", lists)
        found = {split: _Objects(path, _listed(file, path / "Annotations")) for split, file in files.items()}
        names = class_names or sorted({name for one in found.values() for name in one.names})
        splits = {split: one.listing(names, split) for split, one in found.items()}
        if "val" not in splits:
            splits |= held_out(splits["train"], validation, 0.0 if "test" in splits else test, files["train"])
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


def _lists(folder: Path, given: dict[str, str] | None) -> dict[Split, Path]:
    """The list of each split.

    Raises:
        ValueError: a split that there is not, or none to train on.
    """
    if given is None:
        return {name: folder / f"{name}.txt" for name in SPLITS if name != "test" or (folder / "test.txt").is_file()}
    unknown = sorted(given.keys() - set(SPLITS))
    if unknown:
        raise ValueError(f"lists: there is no split `{unknown[0]}`; write train, val and test")
    if "train" not in given:
        raise ValueError("lists: name at least the list to `train` on")
    return {name: folder / f"{given[name]}.txt" for name in SPLITS if name in given}


def _listed(file: Path, annotations: Path) -> list[str]:
    """The names in a list, sorted; a flag behind a name is not read."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise RunError(f"{file}: there is no such list") from error
    names = sorted({_stem(line.strip(), annotations) for line in lines if line.strip()})
    if not names:
        raise RunError(f"{file}: is empty")
    return names


def _stem(line: str, annotations: Path) -> str:
    """A name may end like a flag: where there is a file of the whole line's name, that is meant."""
    return line if (annotations / f"{line}.xml").is_file() else FLAG.sub("", line)


class _Objects:
    """What the XML files of one list say; what cannot be read is kept as a sentence."""

    def __init__(self, path: Path, stems: list[str]) -> None:
        self._path = path
        self._read: dict[str, ElementTree.Element | BadSampleError] = {}
        for stem in stems:
            try:
                self._read[stem] = _parsed(path / "Annotations" / f"{stem}.xml")
            except BadSampleError as error:
                self._read[stem] = error

    @property
    def names(self) -> set[str]:
        """Of the classes that occur."""
        found = {
            node.findtext("name", "").strip()
            for root in self._read.values()
            if not isinstance(root, BadSampleError)
            for node in root.iter("object")
        }
        return found - {""}  # an object without a name spoils its picture, see _annotated

    def listing(self, names: list[str], split: Split) -> Listing:
        place = {name: label for label, name in enumerate(names)}
        return collected(split, list(self._read), lambda stem: self._annotated(stem, place))

    def _annotated(self, stem: str, place: dict[str, int]) -> Annotated:
        root = self._read[stem]
        if isinstance(root, BadSampleError):
            raise root
        return _annotated(self._path, stem, root, place)


def _parsed(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(file).getroot()
    except FileNotFoundError as error:
        raise BadSampleError(f"{file}: there is no such file") from error
    except (OSError, ElementTree.ParseError) as error:
        raise BadSampleError(f"{file}: is no XML that can be read ({error})") from error


def _annotated(path: Path, stem: str, root: ElementTree.Element, place: dict[str, int]) -> Annotated:
    file = path / "Annotations" / f"{stem}.xml"
    size = root.find("size")
    if size is None:
        raise BadSampleError(f"{file}: does not tell the `size` of its picture")
    height, width = (int(_number(size, side, file)) for side in ("height", "width"))
    boxes: list[list[float]] = []
    labels: list[int] = []
    difficult: list[bool] = []
    for node in root.iter("object"):
        name = node.findtext("name", "").strip()
        if not name:
            raise BadSampleError(f"{file}: an object has no `name`")
        if name not in place:
            raise RunError(f"{file}: has a `{name}`, which is none of the classes; {did_you_mean(name, place)}")
        corners = node.find("bndbox")
        if corners is None:
            raise BadSampleError(f"{file}: a `{name}` has no `bndbox`")
        left, top, right, bottom = (_number(corners, side, file) for side in SIDES)
        first = 1 if right > left and bottom > top else 0
        boxes.append([left - first, top - first, right, bottom])
        labels.append(place[name])
        difficult.append(node.findtext("difficult", "0").strip() == "1")
    image = _image(path / "JPEGImages", stem)
    return annotated(image, (height, width), boxes, labels, str(file), difficult)


def _number(node: ElementTree.Element, name: str, file: Path) -> float:
    text = node.findtext(name, "")
    try:
        return float(text)
    except ValueError as error:
        raise BadSampleError(f"{file}: `{node.tag}` has the {name} `{text}`, which is no number") from error


def _image(folder: Path, stem: str) -> Path:
    """The picture of a name; where there is none, the file that should be there."""
    return next(
        (path for path in (folder / f"{stem}{end}" for end in ENDINGS) if path.is_file()), folder / f"{stem}.jpg"
    )
