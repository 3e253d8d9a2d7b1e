"""Which pictures there are and what they show, before any of them is opened. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdcore.errors import RunError, did_you_mean

Split = Literal["train", "val", "test"]

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
"""What the folders of a divided data set are called."""

NO_LABEL = -100
"""``kdcore.signals.IGNORE``."""


@dataclass(frozen=True)
class Picture:
    """Where a picture lies and what it shows.

    Attributes:
        id: stable for ever: it depends on the name alone, not on what other pictures there are.
        label: number of its class; -100 for none.
    """

    path: Path
    label: int
    id: int


def stable_id(name: str) -> int:
    """63 bits of the name's hash."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def divisions(path: Path) -> dict[Split, Path]:
    """The folder of each split; ``train`` alone, and that is ``path`` itself, where it is not divided.

    Raises:
        RunError: there is no such folder.
    """
    if not path.is_dir():
        raise RunError(f"{path}: there is no such folder")
    if not (path / "train").is_dir():
        return {"train": path}
    found: dict[Split, Path] = {}
    for split, names in FOLDERS.items():
        present = [path / name for name in names if (path / name).is_dir()]
        if len(present) > 1:
            raise RunError(f"{path}: holds both {present[0].name} and {present[1].name}: remove or rename one of them")
        if present:
            found[split] = present[0]
    return found


def folder_names(folder: Path) -> list[str]:
    """The class folders, in the order that ``sorted`` gives them, which is also torchvision's.

    Raises:
        RunError: there are fewer than two.
    """
    names = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    if len(names) < 2:
        what = f"the only folder there is `{names[0]}`" if names else "there is no folder in it"
        raise RunError(f"{folder}: holds one folder for each class, at least two; {what}")
    return names


def in_class_folders(folder: Path, names: Sequence[str], root: Path) -> list[Picture]:
    """Every picture below the class folders, however deep.

    Args:
        names: of the classes, in order; every folder is one of them.
        root: ids come from the path below it.

    Raises:
        RunError: a folder holds no picture, or is no class.
    """
    found: list[Picture] = []
    for name in folder_names(folder):
        if name not in names:
            raise RunError(f"{folder / name}: `{name}` is none of the classes; {did_you_mean(name, names)}")
        here = sorted(path for path in (folder / name).rglob("*") if _is_picture(path))
        if not here:
            raise RunError(
                f"{folder / name}: holds no picture (looked for {', '.join(ENDINGS)}): put some in, or remove it"
            )
        found += [Picture(path, names.index(name), stable_id(path.relative_to(root).as_posix())) for path in here]
    return found


def held_out(
    pictures: Sequence[Picture], names: Sequence[str], validation: float, test: float, where: Path
) -> dict[Split, list[Picture]]:
    """A fixed share of each class for validation and test: the same whatever the recipe's seed.

    A picture's place depends on its id, so that one more picture moves hardly another. Pictures without a label are
    all for training.

    Raises:
        ValueError: shares that leave nothing to train on.
        RunError: a class has too few pictures for one in each split.
    """
    check_shares(validation, test)
    chosen: dict[Split, list[Picture]] = {"train": [], "val": [], "test": []}
    for label in sorted({picture.label for picture in pictures}):
        # ids are hashes: a random order that stays
        members = sorted((one for one in pictures if one.label == label), key=lambda picture: picture.id)
        tests, vals = (0 if label == NO_LABEL else _count(share, len(members)) for share in (test, validation))
        if tests + vals >= len(members):
            raise RunError(
                f"{where}: holds {len(members)} of `{names[label]}`, too few to hold some out: at least "
                f"{2 + (test > 0)} are needed"
            )
        chosen["test"] += members[:tests]
        chosen["val"] += members[tests : tests + vals]
        chosen["train"] += members[tests + vals :]
    return {name: sorted(some, key=lambda one: one.path) for name, some in chosen.items() if some}


def check_shares(validation: float, test: float) -> None:
    """Shares of the pictures that leave some to train on.

    Raises:
        ValueError: they do not.
    """
    if not (validation > 0 and test >= 0 and validation + test < 1):
        raise ValueError(
            f"validation={validation} and test={test}: give shares of the pictures, the first above 0, that leave some "
            "of them to train on"
        )


def checked_names(given: Sequence[str] | None, found: Sequence[str], where: Path) -> list[str]:
    """The names of the classes, in the order that was asked for.

    Raises:
        RunError: a class is there that is not among the names, or the other way round.
        ValueError: a name is given twice.
    """
    if given is None:
        return list(found)
    twice = next((name for i, name in enumerate(given) if name in given[:i]), None)
    if twice is not None:
        raise ValueError(f"class_names: `{twice}` stands there twice")
    for name in found:
        if name not in given:
            raise RunError(f"{where}: `{name}` is none of `class_names`; {did_you_mean(name, given)}")
    for name in given:
        if name not in found:
            raise RunError(f"{where}: has no picture of `{name}` of `class_names`; {did_you_mean(name, found)}")
    return list(given)


def missing_classes(files: Mapping[Split, Sequence[Picture]], names: Sequence[str]) -> list[str]:
    """A note for each split that lacks a class which training has."""
    notes = []
    for split, pictures in files.items():
        present = {picture.label for picture in pictures}
        lacking = [name for label, name in enumerate(names) if label not in present]
        if lacking:
            notes.append(f"the split `{split}` has no picture of {len(lacking)} of {len(names)} classes: "
                         f"{', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}")  # fmt: skip
    return notes


def _count(share: float, of: int) -> int:
    return max(1, round(share * of)) if share > 0 else 0


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
