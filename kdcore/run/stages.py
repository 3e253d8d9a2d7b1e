"""Stages in order: train, keep the best weights, go on where the last run stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdcore.assemble import BuiltStage, assemble
from kdcore.build import Builder
from kdcore.cast import Cast
from kdcore.data.seeds import derive_seed
from kdcore.errors import RunError
from kdcore.evaluate import evaluate
from kdcore.probe import check_losses, check_teacher
from kdcore.recipe.schema import Recipe, Stage
from kdcore.run.folder import STAGE_FILE, RunFolder, adopt, find_stage, read_json, write_json
from kdcore.run.history import History
from kdcore.run.trainer import Configuration, make_trainer
from kdcore.scores import to_device
from kdcore.teachers import Follower

Metrics = dict[str, dict[str, float]]
"""Metric values by model."""


@dataclass(frozen=True)
class Options:
    """How to run a recipe.

    Args:
        runs: where run folders go.
        seeds: how many seeds, from the recipe's on.
        stage: run this stage only.
        probe: score teachers and check losses before the first step.
        fresh: reuse nothing.
    """

    runs: Path
    seeds: int = 1
    stage: str | None = None
    probe: bool = True
    fresh: bool = False


@dataclass
class SeedRun:
    """One pass through the stages, with one seed.

    Attributes:
        finished: what each finished stage found, by name: the content of its ``stage.json``.
        changes: what plugins changed of the trainers, by stage.
    """

    recipe: Recipe
    builder: Builder
    folder: RunFolder
    seed: int
    several: bool
    identities: dict[str, str]
    options: Options
    say: Callable[[str], None]
    loggers: list[Logger]

    def __post_init__(self) -> None:
        self.finished: dict[str, dict[str, Any]] = {}
        self.changes: dict[str, list[str]] = {}
        self.device = torch.device("cpu")
        self._teacher_scores: Metrics = {}

    def run(self) -> None:
        """Every stage that is not finished, or the one that was asked for."""
        for stage in self.recipe.stages.values():
            place = self._place(stage)
            found = self._reusable(stage, place)
            if found is not None:
                self._take(stage, *found)
            elif self.options.stage in (None, stage.name):
                self._run(stage, place)
            elif self.options.stage in self.recipe.stages and self._comes_before(stage):
                raise RunError(
                    f"stage `{self.options.stage}` comes after `{stage.name}`, which has not been run: "
                    f"run it first with `--stage {stage.name}`"
                )

    def _comes_before(self, stage: Stage) -> bool:
        names = list(self.recipe.stages)
        return names.index(stage.name) < names.index(str(self.options.stage))

    def _place(self, stage: Stage) -> Path:
        return self.folder.stage(stage.name, seed=self.seed if self.several and not stage.once else None)

    # ---- stages that are finished

    def _reusable(self, stage: Stage, place: Path) -> tuple[Path, dict[str, Any]] | None:
        identity = self.identities[stage.name]
        mine = read_json(place / STAGE_FILE)
        if mine is not None and mine.get("identity") == identity:
            return place, mine
        # a stage inside this very folder may be another seed's that says `once`
        source = None if self.options.fresh else find_stage(self.options.runs, self.recipe.name, stage.name, identity)
        content = None if source is None else read_json(source / STAGE_FILE)
        if source is None or content is None:
            return None
        self._say(stage, f"reused from {source}: nothing that matters has changed (--fresh runs it again)")
        if rank_zero_only.rank == 0:
            adopt(source, place)
        return source, content

    def _take(self, stage: Stage, source: Path, content: dict[str, Any]) -> None:
        data = self.builder.data(stage.data)
        facts = self.builder.task(stage.task, data).facts
        for name in stage.train:
            self.builder.net(name, facts).load_state_dict(load_file(source / f"{name}.safetensors"))
        self.finished[stage.name] = content

    # ---- a stage that is run

    def _run(self, stage: Stage, place: Path) -> None:
        if stage.do is not None:
            self._act(stage, place)
            return
        started = time.monotonic()
        seed = derive_seed(self.recipe.seed if stage.once else self.seed, "stage")
        pl.seed_everything(seed, workers=True, verbose=False)
        built = assemble(self.builder, stage)
        if stage.left_out:
            self._say(stage, f"has no teacher, so it goes without {', '.join(stage.left_out)}")
        last = place / "last.ckpt"
        resume = last if last.is_file() else None
        try:
            trainer = self._trainer(stage, place, built, resume)
            self.device = trainer.strategy.root_device
            teachers = self._probe(stage, built, resumed=resume is not None)
            pl.seed_everything(seed, workers=True, verbose=False)
            trainer.fit(built.distiller, datamodule=built.data, ckpt_path=resume, weights_only=True)
            if trainer.interrupted:
                raise KeyboardInterrupt
            trainer.strategy.barrier()
            self._finish(stage, place, built, trainer, teachers, time.monotonic() - started)
        finally:
            built.close()

    def _trainer(self, stage: Stage, place: Path, built: BuiltStage, resume: Path | None) -> pl.Trainer:
        configuration = Configuration(self.recipe, stage.name, self.say)
        self.builder.plugins.configure(configuration)
        self.changes[stage.name] = configuration.changes
        step = None if resume is None else int(torch.load(resume, weights_only=True, map_location="cpu")["global_step"])
        if step is not None:
            self._say(stage, f"goes on after step {step}")
        return make_trainer(
            stage,
            place,
            configuration,
            callbacks=[self.builder.make("callback", slot) for slot in stage.callbacks.values()],
            loggers=[History(place / "metrics.csv", resume_from=step), *self.loggers],
            monitor=built.distiller.monitored,
            mode=built.cast.task.primary[1],
        )

    def _probe(self, stage: Stage, built: BuiltStage, *, resumed: bool) -> Metrics:
        """The two checks before the first step."""
        if not self.options.probe:
            return {}
        built.data.data.trainer = None
        scored = self._score_teachers(stage, built)
        for name, values in scored.items():
            metric = built.cast.task.primary[0]
            self._say(stage, f"teacher `{name}` has {metric} {values[metric]:.4f} on the validation set")
            check_teacher(name, values, built.cast.task)
        if not resumed:
            batch = next(iter(built.data.data.train_dataloader()))
            built.distiller.to(self.device)
            batch = to_device(batch, self.device)
            for warning in check_losses(built.cast, built.losses, batch, built.distiller._prepared):
                self._say(stage, f"warning: {warning}")
        return scored

    def _score_teachers(self, stage: Stage, built: BuiltStage) -> Metrics:
        names = [
            name
            for name in stage.teachers
            if name not in built.cast.trained and not isinstance(built.cast.followers.get(name), Follower)
        ]
        wanted = {
            name: self.builder.scores(stage, built.cast.task) for name in names if name not in self._teacher_scores
        }
        if wanted:
            found, _ = evaluate(built.cast, wanted, built.data.data.val_dataloader(), self.device)
            self._teacher_scores.update(found)
        return {name: self._teacher_scores[name] for name in names}

    def _finish(
        self, stage: Stage, place: Path, built: BuiltStage, trainer: pl.Trainer, teachers: Metrics, seconds: float
    ) -> None:
        """Keep the weights the recipe asks for, score them and write them: the marker of a finished stage comes last."""
        best = place / "best.ckpt"
        if stage.keep == "best" and best.is_file():
            state = torch.load(best, weights_only=True, map_location="cpu")["state_dict"]
            for name, module in built.cast.trained.items():
                module.load_state_dict(_part(state, f"students.{name}."))
        built.data.data.trainer = None
        kept, _ = evaluate(
            built.cast,
            {name: self.builder.scores(stage, built.cast.task) for name in built.cast.trained},
            built.data.data.val_dataloader(),
            self.device,
            teachers=dict.fromkeys(built.cast.trained, stage.teachers[:1]),
        )
        built.distiller.cpu()
        content = {
            "identity": self.identities[stage.name],
            "stage": stage.name,
            "seed": self.recipe.seed if stage.once else self.seed,
            "steps": trainer.global_step,
            "seconds": round(seconds, 1),
            "last": built.distiller.latest or kept,
            "best": kept,
            "teachers": teachers,
        }
        if rank_zero_only.rank == 0:
            for name, module in built.cast.trained.items():
                save_model(place, name, module, self._card(stage, built, name, kept[name]))
            write_json(place / STAGE_FILE, content)
        trainer.strategy.barrier()
        self.finished[stage.name] = content
        for name, values in kept.items():
            metric = built.cast.task.primary[0]
            self._say(stage, f"`{name}` has {metric} {values[metric]:.4f} on the validation set ({seconds:.0f} s)")

    def _card(self, stage: Stage, built: BuiltStage, name: str, values: dict[str, float]) -> dict[str, Any]:
        slot = self.recipe.models[name]
        names = built.data.data.class_names
        return {
            "model": name,
            "use": slot.use,
            "stage": stage.name,
            "task": stage.task.use,
            "facts": built.cast.task.facts,
            "class_names": None if names is None else list(names),
            "mean": None if slot.mean is None else list(slot.mean),
            "std": None if slot.std is None else list(slot.std),
            "metrics": values,
        }

    def _act(self, stage: Stage, place: Path) -> None:
        """A stage that runs an action: its table is written for later stages to read."""
        if stage.do is None:
            return
        data = self.builder.data(stage.data)
        task = self.builder.task(stage.task, data)
        action = self.builder.make("action", stage.do)
        table = action(lambda name: self.builder.net(name, task.facts), data)
        if not isinstance(table, dict) or not all(isinstance(column, Tensor) for column in table.values()):
            raise RunError(f"action `{stage.do.use}` returned a {type(table).__name__}, not a table of tensors by name")
        content = {"identity": self.identities[stage.name], "stage": stage.name, "columns": sorted(table)}
        if rank_zero_only.rank == 0:
            save_file({name: column.contiguous() for name, column in table.items()}, place / "table.safetensors")
            write_json(place / STAGE_FILE, content)
        self.finished[stage.name] = content

    def _say(self, stage: Stage, line: str) -> None:
        self.say(f"stage `{stage.name}`: {line}")


def save_model(folder: Path, name: str, module: nn.Module, card: dict[str, Any]) -> None:
    """``<name>.safetensors`` and, beside it, ``<name>.json``: what one must know to use the weights."""
    beside = folder / f".{name}.safetensors"
    state = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    save_file(state, beside, metadata={"kdcore": json.dumps(card)})
    beside.replace(folder / f"{name}.safetensors")
    write_json(folder / f"{name}.json", card)


def bare(builder: Builder, stage: Stage, names: tuple[str, ...]) -> Cast:
    """Some of the recipe's models, all frozen, with a stage's task."""
    data = builder.data(stage.data)
    return builder.bare_cast(names, builder.task(stage.task, data))


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
