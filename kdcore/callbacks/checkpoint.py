"""Checkpoints that survive a crash: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from kdcore.atomic import replacing

LOOK = 20
"""With several ranks: steps between two looks at the clock, because they must agree, and agreeing takes time."""


class AtomicIO(TorchCheckpointIO):
    """Lightning's checkpoint files, never half written; its own way is the system's temp folder, without a flush."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write it whole or not at all; what a crash left half written is overwritten by the next."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as beside, beside.open("wb") as file:
            _save(checkpoint, file)


def _save(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch hides a full disk behind "unexpected pos"
            raise error.__context__ from None
        raise


class _InFolder(ModelCheckpoint):
    """One file of a fixed name in a stage's folder, which may be moved between a crash and the resume."""

    def __init__(self, folder: Path, name: str, **settings: Any) -> None:
        super().__init__(dirpath=folder, filename=name, save_top_k=1, enable_version_counter=False, **settings)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state with this folder in place of the one it was saved in."""
        here = self.format_checkpoint_name({})
        state = {key: here if key.endswith("_model_path") and value else value for key, value in state_dict.items()}
        state["best_k_models"] = dict.fromkeys([here] * bool(state["best_k_models"]), state["best_model_score"])
        super().load_state_dict(state | {"dirpath": self.dirpath})


class Best(_InFolder):
    """``best.ckpt``: the weights with the best primary metric on the validation set, the first of equal ones.

    Args:
        folder: of the stage.
        monitor: name under which the metric is logged.
        mode: ``max`` or ``min``.
    """

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(folder, "best", monitor=monitor, mode=mode)

    # only validation tells what is best: nothing to do in a step
    on_train_batch_end = Callback.on_train_batch_end


class Last(_InFolder):
    """``last.ckpt``: where to resume; at the end of each epoch, and every few minutes at the edge of a window.

    Inside an accumulation window gradients are under way that no checkpoint holds.

    Args:
        folder: of the stage.
        minutes: between two checkpoints within an epoch.
    """

    def __init__(self, folder: Path, *, minutes: float = 10.0) -> None:
        super().__init__(folder, "last", every_n_epochs=1, save_on_train_epoch_end=True)
        self._seconds = 60.0 * minutes
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = time.monotonic() - self._saved_at >= self._seconds  # first, as it is hardly ever true
        if not due and trainer.world_size == 1:
            return
        inside = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if inside or trainer.is_last_batch or self._should_skip_saving_checkpoint(trainer):
            return  # the last batch is followed by the end of the epoch
        if trainer.world_size > 1:
            due = trainer.global_step % LOOK == 0 and trainer.strategy.broadcast(due)
        if due:
            self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self._saved_at = time.monotonic()
