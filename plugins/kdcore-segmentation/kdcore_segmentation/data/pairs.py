"""Which image belongs to which mask: files found by name, before any of them is opened."""

from __future__ import annotations

from pathlib import Path

import torch
from kdcore.data.base import Split
from kdcore.data.splits import stratified_order
from kdcore.errors import RunError

from kdcore_segmentation.data.reading import Pair

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASKS = (".png", ".bmp", ".tif", ".tiff", ".gif")

SPLIT_SEED = 1797
"""Fixes the split of data that brings none. Not the recipe's seed, so that all seeds are tested on the same images."""

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def matching(images: Path, masks: Path, *, split: Split = "train") -> list[Pair]:
    """Every image of a folder with the mask of the same name, whatever the endings.

    An image without a mask gets the name that its mask should have, and fails when it is read.

    Args:
        split: ids count from 0 in ``train``; those of the others are out of its way.

    Raises:
        RunError: a folder is missing or has no image, or two files share a name.
    """
    masks_by_name = _by_name(masks, MASKS)
    first = SPLITS.index(split) << 32
    found = [
        Pair(path, masks_by_name.get(name, masks / f"{name}.png"), first + place)
        for place, (name, path) in enumerate(_by_name(images, IMAGES).items())
    ]
    if not found:
        raise RunError(f"{images}: holds no image (looked for {', '.join(IMAGES)})")
    return found


def held_out(pairs: list[Pair], validation: float, test: float) -> dict[Split, list[Pair]]:
    """A fixed share of the pairs for validation and test, the same whatever the recipe's seed.

    Raises:
        ValueError: shares that leave nothing to train on.
        RunError: too few pairs for one in each split.
    """
    if not (validation > 0 and test >= 0 and validation + test < 1):
        raise ValueError(
            f"validation={validation} and test={test}: give shares of the images, the first above 0, that leave some "
            "of them to train on"
        )
    tested, validated = (max(1, round(share * len(pairs))) if share > 0 else 0 for share in (test, validation))
    held = tested + validated
    if held >= len(pairs):
        raise RunError(f"{pairs[0].image.parent}: holds {len(pairs)} images, too few to hold some out for validation")
    order = stratified_order(torch.zeros(len(pairs), dtype=torch.int64), SPLIT_SEED).tolist()
    places: dict[Split, list[int]] = {"train": order[held:], "val": order[tested:held], "test": order[:tested]}
    return {name: [pairs[place] for place in sorted(chosen)] for name, chosen in places.items() if chosen}


def _by_name(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Stem -> file, sorted by stem."""
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in endings or path.name.startswith("."):
            continue
        if path.stem in found:
            raise RunError(
                f"{folder}: {found[path.stem].name} and {path.name} share a name, which must tell them apart"
            )
        found[path.stem] = path
    return dict(sorted(found.items()))
