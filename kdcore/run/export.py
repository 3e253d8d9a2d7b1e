"""The student alone, as it is shipped: preprocessing and softmax inside, checked against the original."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from kdcore.errors import RunError
from kdcore.recipe.schema import Slot
from kdcore.run.folder import write_json
from kdcore.run.restore import Restored, chosen, samples

SAMPLES = 32
"""Validation samples on which what was exported must answer like the original."""


def export(restored: Restored, model: str | None, formats: Sequence[str], folder: Path) -> list[Path]:
    """Write one model in each format, and ``<model>.json`` beside it.

    Raises:
        RunError: no such model, or what was exported answers differently.
    """
    name = chosen(restored, model)
    task = restored.cast.task
    deployed = task.deploy(restored.cast.module(name).cpu()).eval()
    example = _inputs(deployed, samples(restored, SAMPLES))
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for wanted in formats:
        with torch.no_grad():
            files += restored.builder.make("exporter", Slot("--format", wanted), deployed, example, folder)
    names = restored.data.class_names
    card = {
        "model": name,
        "recipe": restored.recipe.name,
        "task": restored.stage.task.use,
        "inputs": {key: list(value.shape[1:]) for key, value in zip(_parameters(deployed), example, strict=True)},
        "facts": task.facts,
        "class_names": None if names is None else list(names),
    }
    write_json(folder / f"{name}.json", card)
    return [*files, folder / f"{name}.json"]


def _inputs(deployed: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """What the deployed net is called with: its ``forward`` names its parameters as the batch does."""
    names = _parameters(deployed)
    missing = [name for name in names if name not in batch]
    if missing:
        raise RunError(f"the deployed net takes `{missing[0]}`, the batch holds {', '.join(sorted(batch))}")
    return tuple(batch[name] for name in names)


def _parameters(deployed: nn.Module) -> list[str]:
    return list(inspect.signature(deployed.forward).parameters)
