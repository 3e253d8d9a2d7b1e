"""Finished models of a recipe, found again: for ``validate``, ``test`` and ``export``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from kdcore.build import Builder
from kdcore.cast import Cast
from kdcore.data.base import Data
from kdcore.errors import RunError, did_you_mean
from kdcore.evaluate import evaluate
from kdcore.plugins import Plugins
from kdcore.recipe.schema import Recipe, Stage
from kdcore.run.folder import find_stage
from kdcore.run.identity import installed_versions, stage_identities


@dataclass
class Restored:
    """The models of a finished recipe, with their data and task."""

    recipe: Recipe
    builder: Builder
    stage: Stage
    data: Data
    cast: Cast

    @property
    def teachers(self) -> dict[str, tuple[str, ...]]:
        """The teachers of each model that had any."""
        return {name: stage.teachers for stage in self.recipe.stages.values() for name in stage.train}


def restore(
    recipe: Recipe,
    plugins: Plugins,
    runs: Path,
    plugin_files: Sequence[Path],
    say: Callable[[str], None],
) -> Restored:
    """Load every trained model from the newest finished stages of this very recipe.

    Raises:
        RunError: a stage has not been run.
    """
    builder = Builder(recipe, plugins, recipe.seed, runs, say)
    identities = stage_identities(recipe, recipe.seed, installed_versions(plugins), plugin_files)
    trained: list[str] = []
    for stage in recipe.stages.values():
        place = find_stage(runs, recipe.name, stage.name, identities[stage.name])
        if place is None:
            raise RunError(
                f"stage `{stage.name}` of this recipe has not been run under {runs / recipe.name}: "
                "`kdcore fit` it first, with the same overrides"
            )
        data = builder.data(stage.data)
        facts = builder.task(stage.task, data).facts
        for name in stage.train:
            builder.net(name, facts).load_state_dict(load_file(place / f"{name}.safetensors"))
            trained.append(name)
    last = list(recipe.stages.values())[-1]
    data = builder.data(last.data)
    names = tuple(dict.fromkeys([*trained, *(name for stage in recipe.stages.values() for name in stage.teachers)]))
    composite = {name for name in names if recipe.models[name].use in ("ema", "snapshot")}
    cast = builder.bare_cast(tuple(name for name in names if name not in composite), builder.task(last.task, data))
    return Restored(recipe, builder, last, data, cast)


def chosen(restored: Restored, model: str | None) -> str:
    """The model to export: the one that was asked for, else what the last stage trained.

    Raises:
        RunError: there is no such model.
    """
    known = [*restored.cast.frozen]
    name = model or restored.stage.train[0]
    if name not in known:
        raise RunError(f"the recipe has no model `{name}` to export: {did_you_mean(name, known)}")
    return name


def samples(restored: Restored, count: int) -> dict[str, torch.Tensor]:
    """The first samples of the validation set, as one batch."""
    restored.data.trainer = None
    gathered: dict[str, list[torch.Tensor]] = {}
    have = 0
    for batch in restored.data.val_dataloader():
        for key, value in batch.items():
            if isinstance(value, torch.Tensor):
                gathered.setdefault(key, []).append(value)
        have += len(batch["id"])
        if have >= count:
            break
    return {key: torch.cat(parts)[:count] for key, parts in gathered.items()}


def score(restored: Restored, split: str) -> list[str]:
    """A line for each model with its metrics on one split.

    Raises:
        RunError: the data has no test split.
    """
    restored.data.trainer = None
    loader = restored.data.val_dataloader() if split == "val" else restored.data.test_dataloader()
    cast, names = restored.cast, [*restored.cast.frozen, *restored.cast.ensembles]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    empty = {name: restored.builder.scores(restored.stage, cast.task) for name in names}
    teachers = {name: tuple(t for t in found if t in names)[:1] for name, found in restored.teachers.items()}
    metrics, _ = evaluate(cast, empty, loader, device, teachers=teachers)
    return [
        f"{name}  " + "  ".join(f"{metric} {value:.4f}" for metric, value in metrics[name].items()) for name in names
    ]
