"""A Lightning trainer for one stage, and what plugins change of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger

from kdcore.callbacks.checkpoint import AtomicIO, Best, Last
from kdcore.callbacks.idle import skip_idle_hooks
from kdcore.callbacks.progress import Progress
from kdcore.errors import PluginError, Problem, RecipeError
from kdcore.recipe.schema import Recipe, Stage

OWNED = {
    "callbacks": "add one with run.add_callback(callback, why=...)",
    "logger": "the recipe says `logger:`",
    "plugins": "the recipe may say `trainer.precision:` and `trainer.strategy:`",
    "default_root_dir": "the run folder is the place for files",
    "enable_checkpointing": "a run goes on from its checkpoints, and ends with the best",
}
"""Parameters of the trainer that only kdcore sets, and what a plugin does instead."""


@dataclass
class Configuration:
    """What ``kdcore_configure`` may change; every change is said and kept."""

    recipe: Recipe
    stage: str
    say: Callable[[str], None]
    callbacks: list[Callback] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)

    def add_callback(self, callback: Callback, *, why: str) -> None:
        """Add a Lightning callback.

        Raises:
            PluginError: it is none.
        """
        if not isinstance(callback, Callback):
            what = f"run.add_callback was given {callback!r}, which is no lightning.pytorch.Callback"
            raise PluginError([Problem(what, "give an instance of a subclass of it")])
        self.callbacks.append(callback)
        self._changed(f"added callback {type(callback).__name__}: {why}")

    def set_trainer(self, key: str, value: Any, *, why: str) -> None:
        """Set a parameter of the trainer that the recipe leaves open; what the recipe says stays.

        Raises:
            PluginError: the parameter is one that only kdcore sets.
        """
        if key in OWNED:
            raise PluginError([Problem(f"a plugin may not set trainer.{key}", OWNED[key])])
        said = self.recipe.stages[self.stage].trainer
        if key in said:
            self._changed(f"wanted trainer.{key} = {value!r} ({why}); the recipe's {said[key]!r} stays")
            return
        over = f" over another's {self.settings[key]!r}" if key in self.settings else ""
        self.settings[key] = value
        self._changed(f"set trainer.{key} = {value!r}{over}: {why}")

    def _changed(self, line: str) -> None:
        self.changes.append(line)
        self.say(f"stage `{self.stage}`: a plugin {line}")


def make_trainer(
    stage: Stage,
    folder: Path,
    configuration: Configuration,
    *,
    callbacks: list[Callback],
    loggers: list[Logger],
    monitor: str,
    mode: str,
) -> pl.Trainer:
    """The trainer of a stage: the recipe's ``trainer:`` over what plugins set, over our defaults.

    Args:
        stage: whose trainer.
        folder: where it writes; nothing goes anywhere else.
        configuration: after the plugins had their say.
        callbacks: the recipe's.
        loggers: all of them.
        monitor: name under which the metric that chooses the best weights is logged.
        mode: ``max`` or ``min``.

    Raises:
        RecipeError: nothing says how long to train, or Lightning refuses the settings.
    """
    settings = {**configuration.settings, **stage.trainer}
    _check_length(stage, settings)
    if settings.get("max_epochs") is None:
        settings["max_epochs"] = -1  # Lightning's own default would be a thousand
    every = [*callbacks, *configuration.callbacks]
    bar = settings.pop("enable_progress_bar", True)
    if bar and not any(isinstance(callback, ProgressBar) for callback in every):
        every.insert(0, Progress())
    every += [Best(folder, monitor, mode), Last(folder)]
    for callback in every:
        skip_idle_hooks(callback)
    defaults = {
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "use_distributed_sampler": False,  # our loaders divide the batches themselves
        "log_every_n_steps": 50,
    }
    try:
        return pl.Trainer(
            **{**defaults, **settings},
            enable_progress_bar=bar,
            callbacks=every,
            logger=loggers,
            plugins=[AtomicIO()],
            default_root_dir=folder,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        said = ", ".join(f"{key}: {value!r}" for key, value in settings.items())
        raise RecipeError(
            [Problem(f"lightning.Trainer refuses {{{said}}}: {error}", path=f"{stage.path}.trainer")]
        ) from error


def _check_length(stage: Stage, settings: dict[str, Any]) -> None:
    """Schedules run over a share of the stage, so its length must be known; ``max_time`` may end it earlier."""
    if not any(settings.get(key) not in (None, -1) for key in ("max_epochs", "max_steps")):
        raise RecipeError(
            [
                Problem(
                    f"nothing says how long stage `{stage.name}` trains",
                    "set `trainer.max_epochs` or `trainer.max_steps`; `trainer.max_time` may only end it earlier",
                    f"{stage.path}.trainer",
                )
            ]
        )
