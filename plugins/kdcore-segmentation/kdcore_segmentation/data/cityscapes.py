"""Cityscapes as it is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kdcore.data.base import Split
from kdcore.errors import RunError

from kdcore_segmentation.data.codes import VOID, mapped_codes
from kdcore_segmentation.data.files import ImageMasks
from kdcore_segmentation.data.pairs import SPLITS
from kdcore_segmentation.data.reading import Pair

CLASSES: dict[str, int] = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
"""Name -> id in the files; their order is that of the 19 training classes. All other ids count as no class."""

LAST_ID = 33
_IMAGE = "_leftImg8bit.png"


class Cityscapes(ImageMasks):
    """Cityscapes street scenes, 19 classes, 1024x2048: 2975 to train on, 500 for validation.

    ``PATH/leftImg8bit/train/CITY/*_leftImg8bit.png`` and ``PATH/gtFine/train/CITY/*_gtFine_labelIds.png``, likewise
    ``val``. The labels of the official test set are secret, so there is no test split.

    Args:
        path: holds ``leftImg8bit`` and ``gtFine``.
        batch_size: samples in a batch, over all devices together.
        size: [height, width] that all images and masks are resized to, in every split; as they are by default.
        bad: what to do with a sample that cannot be used: stop at it, or leave it out and say so (with ``keep: disk``
            that reads every file once more, at the start).
        keep: ``disk`` reads a file each time, ``memory`` once (4 bytes a pixel, at most 8 GiB a split: 512x1024 fits).
        workers: processes that read files, with ``keep: disk``.

    Raises:
        RunError: a folder is missing or empty; a sample cannot be used.

    **Source**: Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016
    (arXiv 1604.01685). Its own licence, non-commercial.
    """

    def __init__(
        self,
        *,
        path: Path,
        batch_size: int = 8,
        size: tuple[int, int] | None = None,
        bad: Literal["error", "skip"] = "error",
        keep: Literal["memory", "disk"] = "disk",
        workers: int = 0,
    ) -> None:
        trained = {given: number for number, given in enumerate(CLASSES.values())}
        super().__init__(
            splits={name: _pairs(Path(path), name) for name in SPLITS if name != "test"},
            codes=mapped_codes({**dict.fromkeys(range(LAST_ID + 1), VOID), **trained}),
            classes=len(CLASSES),
            names=tuple(CLASSES),
            batch_size=batch_size,
            size=size,
            bad=bad,
            keep=keep,
            workers=workers,
        )


def _pairs(path: Path, split: Split) -> list[Pair]:
    """Every image of a split with its labels, city by city."""
    images, masks = path / "leftImg8bit" / split, path / "gtFine" / split
    found = sorted(images.glob(f"*/*{_IMAGE}"))
    if not found:
        raise RunError(f"{images}: holds no CITY/*{_IMAGE}")
    first = SPLITS.index(split) << 32
    return [
        Pair(image, masks / image.parent.name / image.name.replace(_IMAGE, "_gtFine_labelIds.png"), first + place)
        for place, image in enumerate(found)
    ]
