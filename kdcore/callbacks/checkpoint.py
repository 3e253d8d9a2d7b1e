"""Checkpoints that survive a crash: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO


class AtomicIO(TorchCheckpointIO):
    """Lightning's checkpoint files, never half written; it saves by way of the system's temp folder, without a flush."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        with beside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)


class Best(ModelCheckpoint):
    """``best.ckpt``: the weights with the best primary metric on the validation set."""

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(
            dirpath=folder, filename="best", monitor=monitor, mode=mode, save_top_k=1, enable_version_counter=False
        )


class Last(ModelCheckpoint):
    """``last.ckpt``: where to resume; at the end of each epoch, and every few minutes at the edge of a window.

    Inside an accumulation window gradients are under way that no checkpoint holds.
    """

    def __init__(self, folder: Path, *, minutes: float = 10.0) -> None:
        super().__init__(
            dirpath=folder,
            filename="last",
            save_top_k=1,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self._seconds = 60.0 * minutes
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        inside = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if inside or trainer.global_step % 20 or trainer.is_last_batch:
            return
        due = time.monotonic() - self._saved_at > self._seconds
        if trainer.world_size > 1:
            due = trainer.strategy.broadcast(due)
        if due:
            self._saved_at = time.monotonic()
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))
