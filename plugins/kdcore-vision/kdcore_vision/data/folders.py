"""Your own pictures, a folder for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kdcore_vision.data.files import FileShelf, Shelves
from kdcore_vision.data.listing import (
    Picture,
    Split,
    checked_names,
    divisions,
    folder_names,
    held_out,
    in_class_folders,
    missing_classes,
)


class Folders(Shelves):
    """``PATH/CLASS/*.jpg``, or ``PATH/train/CLASS/*.jpg`` with ``val`` and perhaps ``test`` beside ``train``.

    A class is called as its folder is, and the folders in sorted order have the numbers 0, 1, ..., as torchvision and
    timm count them. Where there is no folder ``val`` a fixed share of each class is held out: the same pictures
    whatever the recipe's seed, and hardly others when some are added. Pictures of all kinds become RGB, which is said.

    Args:
        path: holds the folders of the classes, or ``train``, ``val`` (also ``valid``, ``validation``) and ``test``.
        batch_size: samples in a batch, over all devices together.
        size: [height, width] that every picture gets, in every split; by default they must be equal already.
        fit: ``crop`` keeps the proportions, and cuts off what stands out on two sides; ``stretch`` does not keep them.
        channels: 3 for RGB, 1 for grey.
        class_names: the folders in another order, that of your teacher.
        validation: share of each class held out for validation, where there is no folder ``val``.
        test: share held out for the test, where there is no folder ``test`` and none ``val``; 0 for no test split.
        labels: keep only so many training labels, evenly over the classes and chosen by the recipe's seed; the other
            pictures stay, with the label -100, for a teacher to speak about.
        bad: what to do with a picture that cannot be used: stop at it, or leave it out and say so.
        keep: ``memory`` decodes every file once, ``disk`` each time; ``auto`` keeps splits up to 2 GiB in memory.
        workers: processes that read and transform pictures.

    Raises:
        RunError: a folder is missing or empty, or is no class; a picture cannot be used.
        ValueError: shares that leave nothing to train on; ``labels`` that leave a class without one.
    """

    def __init__(
        self,
        *,
        path: Path,
        batch_size: int = 64,
        size: tuple[int, int] | None = None,
        fit: Literal["crop", "stretch"] = "crop",
        channels: Literal[1, 3] = 3,
        class_names: list[str] | None = None,
        validation: float = 0.1,
        test: float = 0.0,
        labels: int | None = None,
        bad: Literal["error", "skip"] = "error",
        keep: Literal["auto", "memory", "disk"] = "auto",
        workers: int = 0,
    ) -> None:
        path = Path(path)
        places = divisions(path)
        names = checked_names(class_names, folder_names(places["train"]), places["train"])
        files = _files(path, places, names, validation, test)
        super().__init__(
            shelves={split: FileShelf(pictures) for split, pictures in files.items()},
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
        self.notes += missing_classes(files, names)


def _files(
    path: Path, places: dict[Split, Path], names: list[str], validation: float, test: float
) -> dict[Split, list[Picture]]:
    found = {split: in_class_folders(place, names, path) for split, place in places.items()}
    if "val" in found:
        return found
    divided = held_out(found["train"], names, validation, 0.0 if "test" in found else test, places["train"])
    return {**found, **divided}
