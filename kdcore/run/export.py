"""The student alone, as it is shipped: preprocessing and softmax inside, checked against the original."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdcore.errors import Problem, RecipeError, RunError, did_you_mean
from kdcore.recipe.schema import Slot
from kdcore.run.folder import write_json
from kdcore.run.restore import Restored, samples

SAMPLES = 32
"""Validation samples on which what was exported must answer like the original."""


def export(restored: Restored, model: str | None, formats: Sequence[str], folder: Path) -> list[Path]:
    """Write one model in each format, and ``<model>.json`` beside it, into a folder of the model's name.

    Args:
        restored: the finished recipe.
        model: which; what the last stage trained when not given.
        formats: names of exporters.
        folder: where to.

    Raises:
        RecipeError: no such model, or no such format.
        RunError: what was exported answers differently, or two formats write one file.
    """
    name = _chosen(restored, model)
    slots = [Slot(f"--format {wanted}", wanted) for wanted in dict.fromkeys(formats)]
    for slot in slots:
        restored.builder.component("exporter", slot)  # before the first file is written
    task = restored.cast.task
    deployed = task.deploy(restored.cast.module(name).cpu()).eval()
    names = list(inspect.signature(deployed.forward).parameters)
    example = samples(restored, names, SAMPLES)
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    card = _card(restored, name, {key: list(value.shape[1:]) for key, value in zip(names, example, strict=True)})
    files: list[Path] = []
    for slot in slots:
        with torch.no_grad():
            made = restored.builder.make(
                "exporter", slot, deployed, example, folder, facts={"data": restored.data, "card": card}
            )
        over = next((path for path in made if path in files), None)
        if over is not None:
            raise RunError(
                f"`{slot.use}` has written over {over} of another format: export one after the other, each with a --to "
                "of its own"
            )
        files += made
    write_json(folder / f"{name}.json", card)
    return [*files, folder / f"{name}.json"]


def _card(restored: Restored, name: str, inputs: dict[str, list[int]]) -> dict[str, Any]:
    """What one must know to use the files."""
    classes = restored.data.class_names
    return {
        "model": name,
        "recipe": restored.recipe.name,
        "task": restored.stage.task.use,
        "inputs": inputs,
        "facts": restored.cast.task.facts,
        "class_names": None if classes is None else list(classes),
    }


def _chosen(restored: Restored, model: str | None) -> str:
    if model is None:
        return [name for stage in restored.recipe.stages.values() for name in stage.train[:1]][-1]
    known = list(restored.cast.frozen)
    if model not in known:
        what = "is composed of others" if model in restored.recipe.models else "is no model of the recipe"
        raise RecipeError([Problem(f"--model {model}: `{model}` {what}", did_you_mean(model, known))])
    return model
