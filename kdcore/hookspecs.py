"""The four hooks a plugin may implement, and the kinds of component it may add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import pluggy

if TYPE_CHECKING:
    from kdcore.errors import Problem
    from kdcore.recipe.schema import Recipe
    from kdcore.run.restore import Restored

KDCORE_API = 1
"""Version of the plugin contract; a plugin module that sets another ``KDCORE_API`` is not loaded."""

Kind = Literal[
    "task", "model", "data", "transform", "prepare", "loss", "projector", "schedule", "metric",
    "callback", "optimizer", "edit", "action", "exporter", "logger", "weights", "command",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)

Target = str | Callable[..., Any]
"""A component: a callable, or ``"package.module:attribute"`` naming the file that defines it."""

hookspec = pluggy.HookspecMarker("kdcore")
hookimpl = pluggy.HookimplMarker("kdcore")


class Add(Protocol):
    """Adds one component under the plugin's own prefix: ``add("loss", "fgd", "kdcore_detection.losses.fgd:FGD")``."""

    def __call__(self, kind: Kind, name: str, target: Target) -> None: ...


class Run(Protocol):
    """What ``kdcore_configure`` may change of a stage. Every change is printed and stored in the run folder."""

    @property
    def recipe(self) -> Recipe: ...

    @property
    def stage(self) -> str: ...

    def add_callback(self, callback: Any, *, why: str) -> None: ...

    def set_trainer(self, key: str, value: Any, *, why: str) -> None: ...


class Facade(Protocol):
    """What a command works with. Nothing is read or loaded before it is asked for."""

    @property
    def words(self) -> Sequence[str]:
        """Recipe files and overrides, as given; empty where there were none."""

    def restored(self) -> Restored:
        """The models of a finished run, frozen and in eval mode, with its data, its task and its folder.

        Raises:
            RecipeError: no recipe was named, or it is wrong.
            RunError: it has not been run.
        """

    def say(self, line: str) -> None:
        """Print a line for the person who watches."""


@hookspec
def kdcore_register(add: Add) -> None:
    """Add the plugin's components. Called once, when the plugin is first needed; must not import torch."""


@hookspec
def kdcore_check_recipe(recipe: Recipe) -> list[Problem]:  # type: ignore[empty-body]
    """Say what is wrong with a recipe that names this plugin, beyond what signatures tell. Must not import torch."""


@hookspec
def kdcore_check_environment() -> list[Problem]:  # type: ignore[empty-body]
    """Say what is missing on this machine (a library, a data set, a driver); shown by ``doctor``."""


@hookspec
def kdcore_configure(run: Run) -> None:
    """Adapt the trainer of one stage, through ``run`` only; called before the stage starts."""
