"""Recipes as text, made into stages and trained for real: what the tests of the runtime share."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from kdcore.assemble import BuiltStage, assemble
from kdcore.build import Builder
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.recipe.schema import Recipe
from kdcore.run.trainer import Configuration, make_trainer
from kdcore.signals import Batch
from kdcore.task import normalise

BASE = """\
kdcore: 1
name: lab
task: {use: classify}
data: {use: local.tiny, batch_size: 16}
models:
  teacher: {use: mlp, hidden: [12]}
  student: {use: mlp, hidden: [6]}
stages:
  teach: {train: teacher, losses: {ce: {use: cross_entropy}}}
  distil: {train: student, teachers: [teacher]}
losses:
  ce: {use: cross_entropy, weight: 0.1}
  kd: {use: kl, weight: 0.9, temperature: 2.0}
optimizer: {use: sgd, lr: 0.1}
trainer: {max_epochs: 1}
logger: null
"""
"""Six batches of 16 in an epoch; overrides change what a test is about."""


class Memo(Logger):
    """A logger that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "memo"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step or 0, dict(metrics)))

    def values(self, name: str) -> list[float]:
        """Every value of one name, in order."""
        return [row[name] for _, row in self.rows if name in row]

    @property
    def names(self) -> set[str]:
        return {name for _, row in self.rows for name in row}


class Lab:
    """Makes builders, stages and trainers in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.memo = Memo()
        self.plugins = Plugins()
        self.plugins.load_file(Path(__file__).with_name("components.py"))
        self.recipe: Recipe
        self._numbers = count()

    def builder(self, *overrides: str, text: str = BASE, seed: int | None = None) -> Builder:
        """A fresh builder of the recipe, checked."""
        path = self.folder / f"recipe{next(self._numbers)}.yaml"
        path.write_text(text, encoding="utf-8")
        recipe = self.recipe = read([path], overrides, self.plugins)
        return Builder(recipe, self.plugins, recipe.seed if seed is None else seed, self.folder, self.said.append)

    def stage(self, *overrides: str, name: str = "distil", text: str = BASE, seed: int | None = None) -> BuiltStage:
        """One stage of a fresh builder."""
        builder = self.builder(*overrides, text=text, seed=seed)
        return assemble(builder, builder.recipe.stages[name])

    def trainer(self, built: BuiltStage, *callbacks: Any, **settings: Any) -> pl.Trainer:
        """The trainer that a run would use, on the CPU and without a bar; ``memo`` is its logger."""
        quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
        stage = replace(built.stage, trainer={**built.stage.trainer, **quiet, **settings})
        return make_trainer(
            stage,
            self.folder / stage.name,
            Configuration(self.recipe, stage.name, self.said.append),
            callbacks=list(callbacks),
            loggers=[self.memo],
            monitor=built.distiller.monitored,
            mode=built.cast.task.primary[1],
        )

    def fit(
        self,
        built: BuiltStage,
        *callbacks: Any,
        resume: Path | None = None,
        checkpoints: bool = False,
        **settings: Any,
    ) -> pl.Trainer:
        """Train a stage; no checkpoints and no validation unless asked for."""
        trainer = self.trainer(built, *callbacks, **{"limit_val_batches": 0, "log_every_n_steps": 1, **settings})
        if not checkpoints:
            kept = [one for one in trainer.callbacks if not isinstance(one, Checkpoint)]  # type: ignore[attr-defined]
            trainer.callbacks = kept  # type: ignore[attr-defined]
        trainer.fit(built.distiller, datamodule=built.data, ckpt_path=resume, weights_only=True)
        return trainer


def batches(built: BuiltStage, epochs: int = 1) -> Iterator[Batch]:
    """What the trainer will see, in its order."""
    data = built.data.data
    data.trainer = None
    loader = data.train_dataloader()
    for epoch in range(epochs):
        loader.batches.set_epoch(epoch)
        yield from loader


def copy_of(module: nn.Module) -> nn.Module:
    """The same weights in eval or train mode as the original, without its hooks."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return twin


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A snapshot of a state dict."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two snapshots; they must have the same names."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """What the task `classify` asks a model for."""
    found: Tensor = model(normalise(model, batch["image"]))
    return found


def ce(student: Tensor, batch: Batch) -> Tensor:
    """The mean cross-entropy, by hand."""
    return torch.nn.functional.cross_entropy(student, batch["labels"])


def kd(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Hinton's loss, by hand."""
    p = (teacher / temperature).softmax(-1)
    return temperature**2 * (p * (p.log() - (student / temperature).log_softmax(-1))).sum(-1).mean()
