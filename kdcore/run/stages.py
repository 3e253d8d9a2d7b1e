"""Stages in order: train, keep the best weights, go on where the last run stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from kdcore.assemble import BuiltStage, assemble, take
from kdcore.build import Builder, statistic
from kdcore.cache.stage import fill
from kdcore.cast import Cast
from kdcore.data.seeds import derive_seed
from kdcore.errors import RunError
from kdcore.evaluate import evaluate
from kdcore.probe import check_losses, check_teacher
from kdcore.recipe.content import content as plain
from kdcore.recipe.content import digest
from kdcore.recipe.schema import Recipe, Ref, Stage
from kdcore.run.folder import STAGE_FILE, RunFolder, adopt, find_stage, read_json, write_json
from kdcore.run.history import History
from kdcore.run.trainer import Configuration, make_trainer
from kdcore.scores import to_device
from kdcore.weights.state import save_state

CASTING = ("bf16-true", "16-true", "64-true")
"""Precisions under which Lightning casts every net of a stage, which rounds the weights of frozen teachers too."""

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
        fresh: reuse nothing; with ``stage``, only of that one.
    """

    runs: Path
    seeds: int = 1
    stage: str | None = None
    probe: bool = True
    fresh: bool = False


@dataclass
class SeedRun:
    """One pass through the stages, with one seed.

    Args:
        recipe: what to run.
        builder: makes this seed's objects.
        folder: of the run.
        identities: of each stage, by name.
        options: how.
        say: prints a line.
        keep: called with what plugins changed, when there is something new to write down (also in ``builder.pins``).
        loggers: besides ``metrics.csv``.

    Attributes:
        finished: what each finished stage found, by name: the content of its ``stage.json``.
        changes: what plugins changed of the trainers, by stage.
        device: where the last stage ran.
    """

    recipe: Recipe
    builder: Builder
    folder: RunFolder
    identities: Mapping[str, str]
    options: Options
    say: Callable[[str], None]
    keep: Callable[[Mapping[str, list[str]]], None] = lambda changes: None
    loggers: list[Logger] = field(default_factory=list)
    finished: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    changes: dict[str, list[str]] = field(default_factory=dict, init=False)
    device: torch.device = field(default=torch.device("cpu"), init=False)
    _scored: Metrics = field(default_factory=dict, init=False)
    """The scores of frozen teachers, by :meth:`_score_key`."""
    _said: set[str] = field(default_factory=set, init=False)

    @property
    def seed(self) -> int:
        return self.builder.seed

    def run(self) -> None:
        """Every stage that is not finished; or the one that was asked for, on what the stages before it left.

        Raises:
            RunError: a stage before the one that was asked for is not finished.
        """
        for stage in self.recipe.stages.values():
            place, wanted = self.place(stage), self.options.stage in (None, stage.name)
            source = self._finished(stage, place, fresh=self.options.fresh and wanted)
            if source is not None:
                self._take(stage, source, place)
            elif wanted:
                self._run(stage, place)
            else:
                raise RunError(
                    f"stage `{self.options.stage}` comes after `{stage.name}`, which has not been run: "
                    f"run it first with `--stage {stage.name}`, or all of them without `--stage`"
                )
            if stage.name == self.options.stage:
                return

    def place(self, stage: Stage) -> Path:
        """The stage's folder; seeds share that of a stage that says ``once``."""
        several = self.options.seeds > 1 and not stage.once
        return self.folder.stage(stage.name, seed=self.seed if several else None)

    # ---- stages that are finished

    def _finished(self, stage: Stage, place: Path, *, fresh: bool) -> Path | None:
        """Where the stage was finished: in this folder, by an earlier start or another seed, or in an older run."""
        identity = self.identities[stage.name]
        if (read_json(place / STAGE_FILE) or {}).get("identity") == identity:
            return place
        return None if fresh else find_stage(self.options.runs, self.recipe.name, stage.name, identity)

    def _take(self, stage: Stage, source: Path, place: Path) -> None:
        if source != place:
            self._say(stage, f"reused from {source}: nothing that matters has changed (--fresh runs it again)")
            if rank() == 0:
                adopt(source, place)
        elif not stage.once or self.seed == self.recipe.seed:
            self._say(stage, "is finished")
        take(self.builder, stage, source)
        self.finished[stage.name] = read_json(source / STAGE_FILE) or {}

    # ---- a stage that is run

    def _run(self, stage: Stage, place: Path) -> None:
        if stage.do is not None:
            self._act(stage, place)
            return
        started = time.monotonic()
        seed = derive_seed(self._seed_of(stage), "stage")
        pl.seed_everything(seed, workers=True, verbose=False)
        built = assemble(self.builder, stage)
        self.keep(self.changes)
        if stage.left_out:
            self._say(stage, f"has no teacher, so it goes without {', '.join(stage.left_out)}")
        self._say_unlabelled(stage)
        last = place / "last.ckpt"
        resume = last if last.is_file() else None
        exact: dict[str, dict[str, Tensor]] = {}
        try:
            trainer = self._trainer(stage, place, built, resume)
            if trainer.precision in CASTING:
                exact = {name: _copied(holder.module) for name, holder in built.cast.frozen.items()}
            self.device = trainer.strategy.root_device
            teachers = self._probe(stage, built, resumed=resume is not None)
            self._fill_cache(stage, built)
            pl.seed_everything(seed, workers=True, verbose=False)
            _fit(trainer, built, resume)
            self._finish(stage, place, built, trainer, teachers, time.monotonic() - started)
            self._say_notes(stage)
        finally:
            built.close()
            for name, state in exact.items():
                built.cast.frozen[name].module.load_state_dict(state)

    def _say_unlabelled(self, stage: Stage) -> None:
        """A student alone that goes through samples without a label is no fair baseline: it has less to learn from."""
        if stage.teachers or stage.data.table is not None or stage.data.samples != "all":
            return
        known = getattr(self.builder.data(stage.data).split("train"), "labelled", None)
        if known is None or not 0 < (labelled := int(known.sum())) < len(known):
            return
        self._say(
            stage,
            f"warning: {len(known) - labelled} of its {len(known)} training samples have no label, and no teacher "
            "speaks about them: leave them out with `data: {samples: labelled}`, and give `trainer.max_steps` instead "
            "of `max_epochs`, so that it learns as long as a distilled student",
        )

    def _say_notes(self, stage: Stage) -> None:
        """What the data has to say, once."""
        for note in self.builder.data_notes:
            if note not in self._said:
                self._said.add(note)
                self._say(stage, f"data: {note}")

    def _fill_cache(self, stage: Stage, built: BuiltStage) -> None:
        if built.cast.cache is not None:
            folder = self.options.runs / self.recipe.name / "cache"
            fill(
                built.cast.cache,
                stage,
                built.cast,
                self.builder.data(stage.data),
                slots=self.recipe.models,
                folder=folder,
                device=self.device,
                say=lambda line: self._say(stage, line),
            )

    def _trainer(self, stage: Stage, place: Path, built: BuiltStage, resume: Path | None) -> pl.Trainer:
        configuration = Configuration(self.recipe, stage.name, self.say)
        self.builder.plugins.configure(configuration)
        if configuration.changes:
            self.changes[stage.name] = configuration.changes
            self.keep(self.changes)
        step = None
        if resume is not None:
            step = int(torch.load(resume, weights_only=True, map_location="cpu", mmap=True)["global_step"])
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
        metric = built.cast.task.primary[0]
        for name, values in scored.items():
            self._say(stage, f"teacher `{name}` has {metric} {values[metric]:.4f} on the validation set")
            check_teacher(name, values, built.cast.task)
        if not resumed:
            batch = to_device(next(iter(built.data.data.train_dataloader())), self.device)
            built.distiller.to(self.device)
            for warning in check_losses(built.cast, built.losses, batch, built.distiller.prepared):
                self._say(stage, f"warning: {warning}")
        return scored

    def _score_teachers(self, stage: Stage, built: BuiltStage) -> Metrics:
        """Of the teachers that are frozen; the same weights are scored once, however many stages they teach."""
        cast = built.cast
        names = [name for name in stage.teachers if name not in cast.trained and name not in cast.followers]
        keys = {name: self._score_key(stage, cast, name) for name in names}
        wanted = {name: self.builder.scores(stage, cast.task) for name in names if keys[name] not in self._scored}
        if wanted:
            found, _ = evaluate(cast, wanted, built.data.data.val_dataloader(), self.device)
            self._scored.update({keys[name]: values for name, values in found.items()})
        return {name: self._scored[keys[name]] for name in names}

    def _score_key(self, stage: Stage, cast: Cast, name: str) -> str:
        """What a score depends on: the stages that have changed a net it comes from, and what it is measured with."""
        nets = {ref.model for ref in cast.order([Ref(name)], cached=False)}
        nets |= {cast.followers[net].of for net in nets & cast.followers.keys()}
        stages = list(self.recipe.stages.values())
        until = stages[: stages.index(stage) + 1]
        changed = [one.name for one in until if nets & {*one.train, *one.init}]
        return digest([name, changed, stage.task, stage.data, stage.metrics])

    def _finish(
        self, stage: Stage, place: Path, built: BuiltStage, trainer: pl.Trainer, teachers: Metrics, seconds: float
    ) -> None:
        """Keep the weights that the recipe asks for, score and write them; what marks the stage finished comes last."""
        best, trained = place / "best.ckpt", built.cast.trained
        trainer.strategy.barrier()
        if stage.keep == "best" and best.is_file():
            checkpoint = torch.load(best, weights_only=True, map_location="cpu")
            for name, module in trained.items():
                module.load_state_dict(_part(checkpoint["state_dict"], f"students.{name}."))
            for name, follower in built.cast.followers.items():
                follower.load_state_dict(checkpoint["followers"][name])
        if trainer.precision in CASTING:
            # it has cast the nets, which are scored, stored and go on in the type that the recipe gives them
            built.distiller.to(torch.float32)
            for name, module in trained.items():
                module.to(getattr(torch, self.recipe.models[name].dtype or "float32"))
        built.data.data.trainer = None
        kept, _ = evaluate(
            built.cast,
            {name: self.builder.scores(stage, built.cast.task) for name in trained},
            built.data.data.val_dataloader(),
            self.device,
            teachers={name: tuple(t for t in stage.teachers if t != name)[:1] for name in trained},
        )
        built.distiller.cpu()
        content = {
            "identity": self.identities[stage.name],
            "stage": stage.name,
            "seed": self._seed_of(stage),
            "steps": trainer.global_step,
            "seconds": round(seconds, 1),
            "last": _finite(built.distiller.latest or kept),
            "best": _finite(kept),
            "teachers": _finite(teachers),
        }
        if rank() == 0:
            for name, module in trained.items():
                save_state(module.state_dict(), place / f"{name}.safetensors")
                write_json(place / f"{name}.json", self._card(stage, built, name, _finite(kept)[name]))
            for name, follower in built.cast.followers.items():  # for `weights: run://.../{name}`
                save_state(follower.module.state_dict(), place / f"{name}.safetensors")
            write_json(place / STAGE_FILE, content)
        trainer.strategy.barrier()
        self.finished[stage.name] = content
        metric = built.cast.task.primary[0]
        for name, values in kept.items():
            self._say(stage, f"`{name}` has {metric} {values[metric]:.4f} on the validation set ({seconds:.0f} s)")

    def _card(self, stage: Stage, built: BuiltStage, name: str, metrics: Mapping[str, float | None]) -> dict[str, Any]:
        """What one must know to use the weights."""
        slot, names = self.recipe.models[name], self.builder.data(stage.data).class_names
        return {
            "model": name,
            "use": slot.use,
            "args": plain(slot.args),
            "stage": stage.name,
            "task": stage.task.use,
            "facts": built.cast.task.facts,
            "class_names": None if names is None else list(names),
            "mean": statistic(built.cast.trained[name], "input_mean"),
            "std": statistic(built.cast.trained[name], "input_std"),
            "metrics": metrics,
        }

    def _act(self, stage: Stage, place: Path) -> None:
        """A stage that runs an action: its table is written for later stages to read."""
        assert stage.do is not None
        data = self.builder.data(stage.data)
        task = self.builder.task(stage.task, data)
        action = self.builder.make("action", stage.do)
        table = action(lambda name: self.builder.net(name, task.facts), data)
        if not isinstance(table, dict) or not all(isinstance(column, Tensor) for column in table.values()):
            raise RunError(f"action `{stage.do.use}` returned a {type(table).__name__}, not a table of tensors by name")
        content = {"identity": self.identities[stage.name], "stage": stage.name, "columns": sorted(table)}
        if rank() == 0:
            save_state(table, place / "table.safetensors")
            write_json(place / STAGE_FILE, content)
        self.builder.tables[stage.name] = {name: column.cpu() for name, column in table.items()}
        self.finished[stage.name] = content

    def _seed_of(self, stage: Stage) -> int:
        return self.recipe.seed if stage.once else self.seed

    def _say(self, stage: Stage, line: str) -> None:
        several = self.options.seeds > 1 and not stage.once
        self.say(f"{f'seed {self.seed}, ' if several else ''}stage `{stage.name}`: {line}")


def rank() -> int:
    """Of this process: 0 writes files and speaks."""
    return int(getattr(rank_zero_only, "rank", 0))


def _fit(trainer: pl.Trainer, built: BuiltStage, resume: Path | None) -> None:
    """Train.

    Raises:
        KeyboardInterrupt: the person, or whoever manages the machine, wants it to stop.
    """
    try:
        trainer.fit(built.distiller, datamodule=built.data, ckpt_path=resume, weights_only=True)
    except SystemExit as stop:
        # Lightning's answer to both signals; after SIGTERM its exit code is that of success
        if trainer.interrupted:
            raise KeyboardInterrupt from stop
        raise


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _finite(metrics: Metrics) -> dict[str, dict[str, float | None]]:
    """JSON knows no NaN."""
    return {
        model: {name: value if math.isfinite(value) else None for name, value in values.items()}
        for model, values in metrics.items()
    }
