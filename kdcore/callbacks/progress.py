"""One line that tells a person how a stage is going."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from typing import Any, Protocol, TextIO, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

REFRESH, READ_LOSS = 0.1, 0.5
"""Seconds between two drawings of the line, and between two readings of the loss (which waits for the device)."""

MEMORY = 10.0
"""Seconds of training after which the rate begins to forget the oldest."""


class Reports(Protocol):
    """What the line asks of the module being trained."""

    stage_name: str
    task: Any  # its `primary` tells whether more is better

    @property
    def monitored(self) -> str:
        """The name under which the primary metric is logged."""

    def running_loss(self) -> float:
        """The mean training loss of late."""


class Progress(ProgressBar):
    """``distil  epoch 3/20  loss 0.412  val accuracy 0.934 (best 0.941)  12k samples/s  0:32 left``

    In a terminal the line is drawn at most ten times a second and stays when the stage ends. Anywhere else there is
    one line for each validation. Between two drawings a step pays for one reading of the clock.

    Args:
        stream: where to write; the standard error stream when not given.
    """  # fmt: skip

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._enabled = True
        self._drawn = False
        self._start(0.0)

    def _start(self, share: float) -> None:
        """Forget the last stage; this one begins with ``share`` of it done (more than 0 when resumed)."""
        self._first_share, self._share = share, share
        self._began = self._since = time.perf_counter()
        self._due = self._loss_due = 0.0
        self._loss = math.nan
        self._latest: float | None = None
        self._best: float | None = None
        self._samples, self._seconds = 0.0, 0.0

    def enable(self) -> None:
        """Write again."""
        self._enabled = True

    def disable(self) -> None:
        """Write nothing (ranks other than the first)."""
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the line, which comes back with the next drawing."""
        self._write("")
        print(*args, **kwargs)

    # ---- what Lightning calls

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(_share(trainer, 0))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._samples += len(batch["id"])
        now = time.perf_counter()
        last = trainer.is_last_batch
        if (now < self._due and not last) or not self._enabled:
            return
        self._count_time(now)
        self._share = _share(trainer, batch_idx + 1)
        if last or now >= self._loss_due:
            self._loss = cast(Reports, pl_module).running_loss()
            self._loss_due = now + READ_LOSS
        self._draw(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count_time(time.perf_counter())

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if _fitting(trainer):
            self._draw(trainer, pl_module, f"validating, batch {batch_idx + 1}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()
        module = cast(Reports, pl_module)
        if not _fitting(trainer) or module.monitored not in trainer.callback_metrics:
            return
        self._latest = float(trainer.callback_metrics[module.monitored])
        better = max if module.task.primary[1] == "max" else min
        self._best = self._latest if self._best is None else better(self._best, self._latest)
        if self._live:
            self._due = 0.0
            self._draw(trainer, pl_module)
        elif self._enabled:
            self._stream.write(self._line(trainer, pl_module, self._left()) + "\n")
            self._stream.flush()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        took = f"in {_clock(time.perf_counter() - self._began)}"
        self._write(self._line(trainer, pl_module, took), end="\n")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._drawn:
            self._stream.write("\n")  # what is said next must not overwrite how far it came
            self._drawn = False

    # ---- the line

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, doing: str = "") -> None:
        """Write the line anew, unless it was written less than a tenth of a second ago."""
        now = time.perf_counter()
        if now >= self._due:
            self._due = now + REFRESH
            self._write(self._line(trainer, pl_module, doing or self._left()))

    def _write(self, line: str, end: str = "") -> None:
        if not (self._live and self._enabled):
            return
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r{line[:width]}\x1b[K{end}")  # ESC [K clears what is left of a longer line
        self._stream.flush()
        self._drawn = bool(line) and not end

    def _line(self, trainer: pl.Trainer, pl_module: pl.LightningModule, ending: str) -> str:
        module = cast(Reports, pl_module)
        parts = [module.stage_name, _position(trainer)]
        if not math.isnan(self._loss):
            parts.append(f"loss {_number(self._loss)}")
        if self._latest is not None and self._best is not None:
            name = module.monitored.removeprefix(f"{module.stage_name}/").replace("/", " ")
            parts.append(f"{name} {_number(self._latest)} (best {_number(self._best)})")
        if self._seconds > 0:
            parts.append(f"{_rate(self._samples * trainer.world_size / self._seconds)} samples/s")
        return "  ".join([*parts, ending]).rstrip()

    def _left(self) -> str:
        done, now = self._share - self._first_share, time.perf_counter()
        return f"{_clock((now - self._began) * (1 - self._share) / done)} left" if done > 0 and self._share < 1 else ""

    def _count_time(self, now: float) -> None:
        """Time spent training; older samples count less and less."""
        self._seconds += now - self._since
        self._since = now
        if self._seconds > MEMORY:
            self._seconds, self._samples = self._seconds / 2, self._samples / 2


def _fitting(trainer: pl.Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _share(trainer: pl.Trainer, batches: int) -> float:
    """How much of the stage is done after this many batches of the current epoch; 0 where nothing tells its length."""
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        of_epoch = batches / trainer.num_training_batches if trainer.num_training_batches else 0.0
        return min(1.0, (trainer.current_epoch + of_epoch) / trainer.max_epochs)
    return min(1.0, trainer.global_step / trainer.max_steps) if trainer.max_steps > 0 else 0.0


def _position(trainer: pl.Trainer) -> str:
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        return f"epoch {min(trainer.current_epoch + 1, trainer.max_epochs)}/{trainer.max_epochs}"
    if trainer.max_steps > 0:
        return f"step {trainer.global_step}/{trainer.max_steps}"
    return f"epoch {trainer.current_epoch + 1}"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value < 1000 else f"{value / 1000:.2g}k" if value < 99_500 else f"{value / 1000:.0f}k"


def _clock(seconds: float) -> str:
    """``0:32``, ``12:05``, ``3:04:59``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
