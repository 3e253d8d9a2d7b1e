"""CamVid as the SegNet tutorial prepared it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kdcore_segmentation.data.codes import plain_codes
from kdcore_segmentation.data.files import ImageMasks
from kdcore_segmentation.data.pairs import SPLITS, matching

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip


class CamVid(ImageMasks):
    """CamVid road scenes, 11 classes: 367 to train on, 101 for validation, 233 for the test.

    ``PATH/train`` and ``PATH/trainannot``, likewise ``val`` and ``test``: images and masks of the same names. The value
    11 in a mask stands for no class.

    Args:
        path: holds the six folders.
        batch_size: samples in a batch, over all devices together.
        size: [height, width] that all images and masks are resized to, in every split; as they are by default.
        bad: what to do with a sample that cannot be used: stop at it, or leave it out and say so.
        keep: ``memory`` decodes every file once (4 bytes a pixel, at most 8 GiB a split), ``disk`` each time.
        workers: processes that read files, with ``keep: disk``.

    Raises:
        RunError: a folder is missing or empty; a sample cannot be used.

    **Source**: Brostow et al., Segmentation and recognition using structure from motion point clouds, ECCV 2008; the
    split and the 11 classes are those of Badrinarayanan et al., SegNet, 2015 (arXiv 1511.00561). For research only.
    """

    def __init__(
        self,
        *,
        path: Path,
        batch_size: int = 8,
        size: tuple[int, int] | None = None,
        bad: Literal["error", "skip"] = "error",
        keep: Literal["memory", "disk"] = "memory",
        workers: int = 0,
    ) -> None:
        root = Path(path)
        super().__init__(
            splits={name: matching(root / name, root / f"{name}annot", split=name) for name in SPLITS},
            codes=plain_codes(len(CLASSES), [11]),
            classes=len(CLASSES),
            names=CLASSES,
            batch_size=batch_size,
            size=size,
            bad=bad,
            keep=keep,
            workers=workers,
        )
