"""A whole run: the folder, every seed through every stage, and the report at the end."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from kdcore.build import Builder
from kdcore.data.base import Data
from kdcore.evaluate import evaluate
from kdcore.plugins import Plugins
from kdcore.recipe.content import digest
from kdcore.recipe.schema import Recipe, Slot, Stage
from kdcore.report.measure import cost
from kdcore.report.page import ModelResult, Pair, SeedResult, build_report, write_report
from kdcore.run.folder import RunFolder, git_sha, open_folder
from kdcore.run.identity import installed_versions, stage_identities
from kdcore.run.stages import Options, SeedRun
from kdcore.teachers import Follower

FOLDER = "KDCORE_RUN_FOLDER"
"""Environment variable that tells the other ranks which folder the first one made."""


@dataclass
class Fit:
    """Runs a recipe.

    Args:
        recipe: checked.
        plugins: who provides its components.
        options: how.
        say: prints a line.
        plugin_files: the ``--plugin`` files, whose content is part of every stage's identity.
    """

    recipe: Recipe
    plugins: Plugins
    options: Options
    say: Callable[[str], None]
    plugin_files: Sequence[Path] = ()

    def run(self) -> Path:
        """Run all of it.

        Returns:
            The report, or the run folder where only one stage was asked for.
        """
        seeds = list(range(self.recipe.seed, self.recipe.seed + self.options.seeds))
        installed = installed_versions(self.plugins)
        identities = {seed: stage_identities(self.recipe, seed, installed, self.plugin_files) for seed in seeds}
        folder = self._folder(digest([identities[seed] for seed in seeds]))
        record = folder.read() or self._record(digest([identities[seed] for seed in seeds]), installed)
        self._write(folder, record)
        runs = []
        for seed in seeds:
            loggers = self._loggers(folder, record, seed)
            run = SeedRun(
                self.recipe, self._builder(seed), folder, seed, len(seeds) > 1, identities[seed], self.options,
                self.say, loggers,
            )  # fmt: skip
            run.run()
            record.setdefault("pins", {}).update(run.builder.pins)
            record.setdefault("configured", {}).update({k: v for k, v in run.changes.items() if v})
            self._write(folder, record)
            runs.append(run)
        if self.options.stage is not None:
            folder.release()
            return folder.path
        report = self._report(folder, runs, record)
        folder.release()
        return report

    # ---- the folder

    def _folder(self, identity: str) -> RunFolder:
        if FOLDER in os.environ and rank_zero_only.rank != 0:
            return RunFolder(Path(os.environ[FOLDER]))
        folder, resumed = open_folder(self.options.runs, self.recipe.name, identity, fresh=self.options.fresh)
        os.environ[FOLDER] = str(folder.path)
        self.say(f"{'resuming' if resumed else 'run folder:'} {folder.path}")
        return folder

    def _record(self, identity: str, installed: dict[str, str]) -> dict[str, Any]:
        """``run.yaml``: what is needed to run this again. The recipe is unresolved, so that no secret is in it."""
        return {
            "identity": identity,
            "recipe": self.recipe.source,
            "files": list(self.recipe.files),
            "overrides": list(self.recipe.overrides),
            "plugin_files": [str(path) for path in self.plugin_files],
            "seeds": self.options.seeds,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "machine": machine(),
            "versions": {**installed, "python": platform.python_version()},
            "git": git_sha(Path.cwd()),
            "wandb": {str(seed): secrets.token_hex(4) for seed in range(self.options.seeds)},
        }

    def _write(self, folder: RunFolder, record: dict[str, Any]) -> None:
        if rank_zero_only.rank == 0:
            folder.write(record)

    def _builder(self, seed: int) -> Builder:
        return Builder(self.recipe, self.plugins, seed, self.options.runs, self.say)

    def _loggers(self, folder: RunFolder, record: dict[str, Any], seed: int) -> list[Logger]:
        slot = self.recipe.logger
        if slot is None:
            return []
        run_id = record["wandb"][str(seed - self.recipe.seed)]
        name = f"{folder.path.name}-seed-{seed}" if self.options.seeds > 1 else folder.path.name
        logger: Logger = self._builder(seed).make("logger", slot, folder.path, name, run_id)
        logger.log_hyperparams({"recipe": self.recipe.source, "seed": seed})
        return [logger]

    # ---- the report

    def _report(self, folder: RunFolder, runs: list[SeedRun], record: dict[str, Any]) -> Path:
        last = list(self.recipe.stages.values())[-1]
        data = runs[0].builder.data(last.data)
        task = runs[0].builder.task(last.task, data)
        split: Literal["test", "val"] = "test" if data.has_test else "val"
        results = [self._measure(run, last, split) for run in runs]
        report = build_report(
            name=self.recipe.name,
            task=last.task.use,
            primary=task.primary,
            seeds=results,
            pairs=pairs(self.recipe),
            split=split,
            provenance={key: record[key] for key in ("machine", "versions", "git", "started")},
        )
        page = folder.path / "report.md"
        if rank_zero_only.rank == 0:
            page = write_report(folder.path, report)
            self._publish(runs, folder.path, report)
        return page

    def _measure(self, run: SeedRun, last: Stage, split: Literal["test", "val"]) -> SeedResult:
        names = tuple(
            name
            for name in self._models()
            if not isinstance(
                run.builder.model(name, run.builder.task(last.task, run.builder.data(last.data)).facts), Follower
            )
        )
        data: Data = run.builder.data(last.data)
        data.trainer = None
        task = run.builder.task(last.task, data)
        cast = run.builder.bare_cast(names, task)
        teachers = {pair.student: (pair.teacher,) for pair in pairs(self.recipe) if pair.teacher in names}
        primary = task.primary[0]
        found: dict[str, dict[str, dict[str, float]]] = {}
        scores: dict[str, torch.Tensor] = {}
        for kind in ("val", "test") if split == "test" else ("val",):
            loader = data.test_dataloader() if kind == "test" else data.val_dataloader()
            empty = {name: run.builder.scores(last, task) for name in names}
            found[kind], scores = evaluate(cast, empty, loader, run.device, teachers=teachers, per_sample=primary)
        results = {}
        for name in names:
            stage = self._trained_in(name)
            done = run.finished.get(stage, {}) if stage is not None else {}
            net = None if name in cast.ensembles else cast.module(name)
            results[name] = ModelResult(
                role=role(self.recipe, name),
                metrics={
                    metric: {
                        "last": done.get("last", {}).get(name, {}).get(metric, value),
                        "best": value,
                        **({"test": found["test"][name][metric]} if split == "test" else {}),
                    }
                    for metric, value in found["val"][name].items()
                },
                cost={} if net is None else cost(net, task),
                scores=scores.get(name),
            )
        return SeedResult(run.seed, results)

    def _models(self) -> list[str]:
        """Models that some stage trains or learns from."""
        used = {name for stage in self.recipe.stages.values() for name in (*stage.train, *stage.teachers)}
        return [name for name in self.recipe.models if name in used]

    def _trained_in(self, model: str) -> str | None:
        stages = [stage.name for stage in self.recipe.stages.values() if model in stage.train]
        return stages[-1] if stages else None

    def _publish(self, runs: list[SeedRun], folder: Path, report: dict[str, Any]) -> None:
        """The student and the report go to the loggers that take files; the primary metric once a run."""
        from kdcore.run.loggers import log_artifacts

        for run in runs:
            for logger in run.loggers:
                files = {"report.md": folder / "report.md", "report.json": folder / "report.json"}
                for pair in pairs(self.recipe):
                    stage = self._trained_in(pair.student)
                    if stage is None:
                        continue
                    once = self.recipe.stages[stage].once
                    place = folder / stage if once or not run.several else folder / f"seed-{run.seed}" / stage
                    files[f"{pair.student}.safetensors"] = place / f"{pair.student}.safetensors"
                    best = run.finished.get(stage, {}).get("best", {}).get(pair.student, {})
                    metric = report["primary"]["name"]
                    if metric in best:
                        logger.log_metrics({"primary": best[metric]})
                log_artifacts(logger, files)
                logger.finalize("success")


def pairs(recipe: Recipe) -> list[Pair]:
    """Every distilled model with its first teacher and, where the recipe has one, the same net trained alone."""
    found = []
    for stage in recipe.stages.values():
        for name in stage.train if stage.teachers else ():
            found.append(Pair(name, stage.teachers[0], _alone(recipe, name)))
    return found


def role(recipe: Recipe, name: str) -> str:
    """Of a model in the report: ``student``, ``alone``, ``teacher`` or just ``trained``."""
    if any(pair.student == name for pair in pairs(recipe)):
        return "student"
    if any(pair.alone == name for pair in pairs(recipe)):
        return "alone"
    return "teacher" if any(name in stage.teachers for stage in recipe.stages.values()) else "trained"


def _alone(recipe: Recipe, student: str) -> str | None:
    """A model with the student's very slot, trained in a stage without a teacher."""
    mine = _same(recipe.models[student])
    for stage in recipe.stages.values():
        for name in () if stage.teachers else stage.train:
            if name != student and _same(recipe.models[name]) == mine:
                return name
    return None


def _same(slot: Slot) -> str:
    return digest(slot)


def machine() -> str:
    """The machine a run was made on, in a few words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} ({platform.machine()})"
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"
