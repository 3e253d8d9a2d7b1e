from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from kdcore.callbacks.checkpoint import Best, Last
from kdcore.callbacks.gpu import GPU
from kdcore.callbacks.idle import PER_STEP, skip_idle_hooks
from kdcore.callbacks.progress import Progress


class Counts(Callback):
    """Implements one hook of a step."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps += 1


class Inherits(Counts):
    """Implements it through its base."""


class Profiled(pl.profilers.Profiler):
    """Notes what Lightning calls."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def start(self, action_name: str) -> None:
        self.called.append(action_name)

    def stop(self, action_name: str) -> None: ...


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss: torch.Tensor = self.net(batch).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(callback: Callback) -> list[str]:
    profiler = Profiled()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], profiler=profiler,
    )  # fmt: skip
    trainer.fit(Net(), DataLoader(torch.ones(6, 2), batch_size=2))
    return [name.rpartition(".")[2] for name in profiler.called if "Callback" in name]


def test_lightning_calls_what_is_implemented_and_no_other_hook_of_a_step() -> None:
    for callback in (Counts(), Inherits()):
        skip_idle_hooks(callback)
        called = fit(callback)
        assert callback.steps == 3
        assert {name for name in called if name in PER_STEP} == {"on_train_batch_end"}
        assert "on_train_epoch_end" in called


def test_without_it_every_hook_of_every_step_is_called() -> None:
    called = fit(Counts())
    assert {name for name in called if name in PER_STEP} == set(PER_STEP)


def test_ours_take_part_in_the_hooks_they_need_only(tmp_path: Path) -> None:
    busy = {}
    for callback in (Progress(), GPU(), Best(tmp_path, "m", "max"), Last(tmp_path)):
        skip_idle_hooks(callback)
        busy[type(callback).__name__] = [name for name in PER_STEP if callable(getattr(callback, name))]
    assert busy == {
        "Progress": ["on_train_batch_end"],
        "GPU": ["on_train_batch_start", "on_train_batch_end"],
        "Best": [],
        "Last": ["on_train_batch_end"],
    }
