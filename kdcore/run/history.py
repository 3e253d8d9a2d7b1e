"""``metrics.csv``: everything a stage logs, a row for each value, complete up to the last line."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

HEADER = "step,metric,value\n"


class History(Logger):
    """Appends to ``metrics.csv``; a resumed stage continues the file after the step it resumes from."""

    def __init__(self, file: Path, *, resume_from: int | None = None) -> None:
        super().__init__()
        self._file = file
        rows = _rows(file) if resume_from is not None else []
        kept = [row for row in rows if int(row.split(",", 1)[0]) <= (resume_from or 0)]
        self._write("w", HEADER + "".join(kept))

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
        rows = [f"{step or 0},{name},{float(value):.8g}\n" for name, value in metrics.items() if name != "epoch"]
        self._write("a", "".join(rows))

    @rank_zero_only
    def _write(self, mode: str, text: str) -> None:
        with self._file.open(mode, encoding="utf-8") as file:
            file.write(text)


def _rows(file: Path) -> list[str]:
    if not file.is_file():
        return []
    return [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True)[1:] if line.count(",") == 2]
