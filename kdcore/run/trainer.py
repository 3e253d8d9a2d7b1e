"""A Lightning trainer for one stage, and what plugins change of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from kdcore.callbacks.checkpoint import AtomicIO, Best, Last
from kdcore.callbacks.progress import Progress
from kdcore.errors import Problem, RecipeError
from kdcore.recipe.schema import Recipe, Stage

LENGTH = ("max_epochs", "max_steps", "max_time")


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
        """Add a Lightning callback."""
        self.callbacks.append(callback)
        self._changed(f"added callback {type(callback).__name__}: {why}")

    def set_trainer(self, key: str, value: Any, *, why: str) -> None:
        """Set a parameter of the trainer that the recipe leaves open."""
        self.settings[key] = value
        self._changed(f"set trainer.{key} = {value!r}: {why}")

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
    """The trainer of a stage: the recipe's ``trainer:`` over our defaults, what plugins set where it is silent.

    Raises:
        RecipeError: nothing says how long to train.
    """
    settings = {**configuration.settings, **stage.trainer}
    if not any(settings.get(key) is not None for key in LENGTH):
        raise RecipeError(
            [
                Problem(
                    f"nothing says how long stage `{stage.name}` trains",
                    "set `trainer.max_epochs`, `trainer.max_steps` or `trainer.max_time`",
                    f"{stage.path}.trainer",
                )
            ]
        )
    if "max_epochs" not in settings:
        settings["max_epochs"] = -1
    every: list[Callback] = [*callbacks, *configuration.callbacks, Best(folder, monitor, mode), Last(folder)]
    if settings.pop("enable_progress_bar", True):
        every.insert(0, Progress())
    return pl.Trainer(
        **{
            "num_sanity_val_steps": 0,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "log_every_n_steps": 50,
            **settings,
        },
        enable_progress_bar=True,
        callbacks=every,
        logger=loggers,
        plugins=[AtomicIO()],
        default_root_dir=folder,
    )
