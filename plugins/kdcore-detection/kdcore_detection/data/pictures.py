"""Pictures that nobody has annotated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from kdcore.errors import RunError

from kdcore_detection.data.annotations import annotated, collected, size_of
from kdcore_detection.data.files import BoxedFiles

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Of the files that count as pictures."""


class Pictures(BoxedFiles):
    """All pictures of a folder and the folders in it, whose boxes nobody knows: for a teacher to speak about.

    There is nothing to validate with, so it is for the half ``unlabelled`` of ``mix``.

    Args:
        path: the folder.
        batch_size: pictures in a batch, over all devices together.
        size: [height, width] that every picture gets; by default they must be equal already.
        fit: ``letterbox`` keeps the proportions and pads in grey; ``stretch`` does not keep them.
        bad: what to do with a picture that cannot be used: stop at it, or leave it out and say so.
        keep: ``memory`` decodes every file once, ``disk`` each time; ``auto`` keeps up to 2 GiB in memory.
        workers: processes that read and transform pictures.

    Raises:
        RunError: the folder is missing or holds no picture, or a picture cannot be used.
    """

    fact_names: ClassVar[tuple[str, ...]] = ("channels", "image_height", "image_width")

    def __init__(
        self,
        *,
        path: Path,
        batch_size: int = 16,
        size: tuple[int, int] | None = None,
        fit: Literal["letterbox", "stretch"] = "letterbox",
        bad: Literal["error", "skip"] = "error",
        keep: Literal["auto", "memory", "disk"] = "auto",
        workers: int = 0,
    ) -> None:
        listing = collected(
            "train", pictures_in(Path(path)), lambda image: annotated(image, size_of(image), [], [], str(image))
        )
        super().__init__(
            splits={"train": replace(listing, known=False)},
            names=(),
            batch_size=batch_size,
            size=size,
            fit=fit,
            labels=None,
            bad=bad,
            keep=keep,
            workers=workers,
        )
        self.class_names = None
        del self.facts["classes"]


def pictures_in(folder: Path) -> list[Path]:
    """All of them, sorted.

    Raises:
        RunError: there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if not found:
        raise RunError(f"{folder}: holds no picture (looked for {', '.join(ENDINGS)})")
    return found
