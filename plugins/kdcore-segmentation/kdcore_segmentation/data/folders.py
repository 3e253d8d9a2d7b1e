"""Your own images and masks, in two folders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kdcore.data.base import Split

from kdcore_segmentation.data.codes import plain_codes
from kdcore_segmentation.data.files import ImageMasks
from kdcore_segmentation.data.pairs import SPLITS, held_out, matching
from kdcore_segmentation.data.reading import Pair


class Folders(ImageMasks):
    """``PATH/images`` and ``PATH/masks``: an image and its mask have the same name, the endings may differ.

    Both hold the files themselves, and a fixed share is held out; or both have the folders ``train``, ``val`` and
    perhaps ``test``. A mask is a picture of one channel whose values are class numbers from 0 on (of a palette, its
    indices). Images become RGB. All have one size, or are resized to one.

    Args:
        path: holds the two folders.
        classes: how many; may be left out where there are ``class_names``.
        class_names: a name for each class.
        batch_size: samples in a batch, over all devices together.
        size: [height, width] that all images and masks are resized to, in every split; by default they stay as they
            are and must be equal.
        ignore: values in the masks that stand for no class.
        validation: share of the images held out for validation, where there is no folder ``val``.
        test: share held out for the test; 0 for no test split.
        bad: what to do with a sample that cannot be used: stop at it, or leave it out and say so.
        keep: ``memory`` decodes every file once (4 bytes a pixel, at most 8 GiB a split), ``disk`` each time.
        workers: processes that read files, with ``keep: disk``.

    Raises:
        RunError: a folder is missing or empty; a sample cannot be used.
        ValueError: the number of classes is missing or is not that of the names; shares that leave nothing to train on.
    """

    def __init__(
        self,
        *,
        path: Path,
        classes: int | None = None,
        class_names: list[str] | None = None,
        batch_size: int = 8,
        size: tuple[int, int] | None = None,
        ignore: list[int] | None = None,
        validation: float = 0.1,
        test: float = 0.0,
        bad: Literal["error", "skip"] = "error",
        keep: Literal["memory", "disk"] = "memory",
        workers: int = 0,
    ) -> None:
        count = _count(classes, class_names)
        super().__init__(
            splits=_splits(Path(path), validation, test),
            codes=plain_codes(count, [255] if ignore is None else ignore),
            classes=count,
            names=class_names,
            batch_size=batch_size,
            size=size,
            bad=bad,
            keep=keep,
            workers=workers,
        )


def _count(classes: int | None, names: list[str] | None) -> int:
    if classes is None and names is None:
        raise ValueError("say how many `classes` there are, or give their `class_names`")
    if classes is not None and names is not None and classes != len(names):
        raise ValueError(f"classes={classes}, but `class_names` has {len(names)}: {', '.join(names)}")
    return len(names or ()) if classes is None else classes


def _splits(path: Path, validation: float, test: float) -> dict[Split, list[Pair]]:
    images, masks = path / "images", path / "masks"
    if not (images / "train").is_dir():
        return held_out(matching(images, masks), validation, test)
    present = [name for name in SPLITS if name != "test" or (images / "test").is_dir()]
    return {name: matching(images / name, masks / name, split=name) for name in present}
