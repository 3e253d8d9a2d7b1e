"""``metrics.csv``: everything a stage logs, a row for each value, complete up to the last line."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from kdcore.run.folder import write_text

HEADER = ("step", "metric", "value")


class History(Logger):
    """Appends to ``metrics.csv``, on the first rank only.

    Args:
        file: where.
        resume_from: the step of the checkpoint that a stage goes on from: rows after it are dropped, because they
            will be logged again. ``None`` starts the file anew.
    """

    def __init__(self, file: Path, *, resume_from: int | None = None) -> None:
        super().__init__()
        self._file = file
        kept = [] if resume_from is None else [row for row in _rows(file) if int(row[0]) <= resume_from]
        self._start(_text([HEADER, *kept]))

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Hyperparameters are in ``run.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One row for each value, in one write."""
        rows = [(step or 0, name, f"{float(value):.8g}") for name, value in metrics.items() if name != "epoch"]
        with self._file.open("a", encoding="utf-8", newline="") as file:
            file.write(_text(rows))

    @rank_zero_only
    def _start(self, text: str) -> None:
        write_text(self._file, text)


def _text(rows: Iterable[Iterable[Any]]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _rows(file: Path) -> list[list[str]]:
    """The whole rows of a file: a crash may have torn the last one, or left garbage there."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # the last has no end of line
    rows = [row for line in lines for row in csv.reader([line])]  # one by one: a torn quote must not swallow the rest
    return [row for row in rows if len(row) == 3 and row[0].isdecimal()]
