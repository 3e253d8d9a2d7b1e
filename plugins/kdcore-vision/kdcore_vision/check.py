"""What is wrong with a recipe for pictures beyond what signatures tell. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdcore.errors import Problem
from kdcore.recipe.schema import Recipe, Slot, Stage

MIXING = ("vision.mixup", "vision.cutmix")


def check_recipe(recipe: Recipe) -> list[Problem]:
    """Every problem of every stage, each once."""
    return list(dict.fromkeys(problem for stage in recipe.stages.values() for problem in _stage(stage)))


def _stage(stage: Stage) -> Iterator[Problem]:
    if stage.task.use == "classify" and any(one.use.startswith("vision.") for one in _data(stage.data)):
        yield Problem(
            f"is `classify`, and `{stage.data.use}` gives pictures as bytes, which that task does not take",
            "write `task: {use: vision.classify}`",
            f"{stage.task.path}.use",
        )
    plain = [slot for slot in stage.losses.values() if slot.use == "cross_entropy"]
    smoothed = [slot for slot in plain if slot.args.get("label_smoothing")]
    mixed = [slot for slot in stage.prepare.values() if slot.use in MIXING]
    if mixed and smoothed and any(one.args.get("labels") is not None for one in _data(stage.data)):
        yield Problem(
            f"smooths labels that `{mixed[0].use}` has mixed, also those of pictures that have none",
            "set it to 0, or leave out the mixing or `labels` of the data",
            f"{smoothed[0].path}.label_smoothing",
        )


def _data(slot: Slot) -> Iterator[Slot]:
    """The data, and those it is mixed of."""
    yield slot
    values: list[Any] = list(slot.args.values())
    for value in values:
        if isinstance(value, Slot):
            yield from _data(value)
