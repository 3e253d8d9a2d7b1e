"""Your own pictures, in a list."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from kdcore.errors import RunError

from kdcore_vision.data.files import FileShelf, Shelves
from kdcore_vision.data.listing import (
    NO_LABEL,
    Picture,
    Split,
    checked_names,
    held_out,
    missing_classes,
    stable_id,
)

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Lists(Shelves):
    """A CSV file with the columns ``path`` and ``label``, and optionally ``split``.

    ``path`` is relative to the file, or to ``root``. ``label`` is the name of the class, empty where a picture has
    none; names in sorted order have the numbers 0, 1, ... (by value, where all of them are whole numbers). ``split``
    holds the words ``train``, ``val`` and ``test``; without it a fixed share of each class is held out.

    Args:
        path: the file, UTF-8, with a header line.
        root: what the paths in it are relative to; its own folder by default.
        batch_size, size, fit, channels, labels, bad, keep, workers: as for ``vision.folders``.
        class_names: the names in another order, that of your teacher.
        validation: share of each class held out for validation, where there is no ``split``.
        test: share held out for the test; 0 for no test split.

    Raises:
        RunError: the file is missing or does not hold what it should; a picture cannot be used.
        ValueError: shares that leave nothing to train on; ``labels`` that leave a class without one.
    """

    def __init__(
        self,
        *,
        path: Path,
        root: Path | None = None,
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
        rows = read_rows(path)
        names = checked_names(class_names, names_in(rows), path)
        files = _files(rows, names, Path(root) if root is not None else path.parent, validation, test, path)
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


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of the list, each with ``path``, ``label`` and perhaps ``split``.

    Raises:
        RunError: the file is missing or no such list, or a path stands in it twice.
    """
    if not path.is_file():
        raise RunError(f"{path}: there is no such file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in ("path", "label") if name not in (reader.fieldnames or ())]
            if lacking:
                first = ", ".join(reader.fieldnames or ()) or "nothing"
                raise RunError(f"{path}: its first line must name the columns path,label (and split), and has: {first}")
            rows = [_checked(row, path, line) for line, row in enumerate(reader, 2)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path}: is no CSV file in UTF-8 ({error})") from error
    if not rows:
        raise RunError(f"{path}: holds no picture")
    seen: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        if row["path"] in seen:
            raise RunError(f"{path}:{line}: {row['path']} stands in line {seen[row['path']]} already")
        seen[row["path"]] = line
    return rows


def names_in(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The names of the classes, sorted; by value, where all are whole numbers."""
    names = {row["label"] for row in rows if row["label"]}
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _checked(row: Mapping[str | None, str | None], path: Path, line: int) -> dict[str, str]:
    """One row without blanks around its words."""
    if None in row or None in row.values():
        raise RunError(f"{path}:{line}: has not as many values as there are columns: quote what holds a comma")
    words = {name: (row.get(name) or "").strip() for name in ("path", "label", "split")}
    if not words["path"]:
        raise RunError(f"{path}:{line}: has no path")
    if "split" in row and words["split"] not in SPLITS:
        raise RunError(f"{path}:{line}: has the split `{words['split']}`: write train, val or test")
    return words


def _files(
    rows: Sequence[Mapping[str, str]], names: list[str], root: Path, validation: float, test: float, path: Path
) -> dict[Split, list[Picture]]:
    number = {name: label for label, name in enumerate(names)}
    pictures = [Picture(root / row["path"], number.get(row["label"], NO_LABEL), stable_id(row["path"])) for row in rows]
    if not rows[0]["split"]:
        return held_out(pictures, names, validation, test, path)
    given = {split: [one for one, row in zip(pictures, rows, strict=True) if row["split"] == split] for split in SPLITS}
    empty = next((split for split in ("train", "val") if not given[split]), None)
    if empty is not None:
        raise RunError(f"{path}: no row has the split {empty}")
    return {split: some for split, some in given.items() if some}
