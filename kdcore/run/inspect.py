"""Two nets side by side: where their activations are, what shape, at what stride, with how many parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.build import Builder
from kdcore.cast import Cast
from kdcore.recipe.schema import Stage
from kdcore.taps import Taps
from kdcore.task import Task


@dataclass(frozen=True)
class Row:
    """One module of a net, as a tap would see its output."""

    path: str
    shape: tuple[int, ...]
    stride: int | None
    parameters: int


@torch.no_grad()
def rows(model: nn.Module, task: Task) -> list[Row]:
    """Every module with a tensor output, in the order in which they finish; shapes are of one sample's batch.

    ``stride`` is how much smaller the map is than the input, for maps (N, C, H, W).
    """
    seen: list[Row] = []
    example = task.example(2)
    inputs = [value for value in example.values() if isinstance(value, Tensor) and value.ndim == 4]
    height = inputs[0].shape[-2] if inputs else None

    def keep(path: str, module: nn.Module) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                stride = height // output.shape[-2] if height and output.ndim == 4 and output.shape[-2] else None
                parameters = sum(parameter.numel() for parameter in module.parameters())
                seen.append(Row(path, tuple(output.shape[1:]), stride, parameters))

        return hook

    handles = [module.register_forward_hook(keep(path, module)) for path, module in model.named_modules() if path]
    training = model.training
    model.eval()
    try:
        task.signals(model, example, {})
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return seen


def inspect(stage: Stage, builder: Builder) -> list[str]:
    """What ``inspect`` prints: the stage's nets, then its taps."""
    task = builder.task(stage.task, builder.data(stage.data))
    cast = builder.bare_cast((*stage.train, *stage.teachers), task)
    names = tuple(name for name in (*stage.train, *stage.teachers) if name in cast.frozen)
    lines = table(cast, names)
    taps = tap_lines(stage, cast)
    return [*lines, "", *taps] if taps else lines


def table(cast: Cast, names: tuple[str, ...]) -> list[str]:
    """The nets of a stage in columns, one beside the other."""
    columns = [_column(name, cast.module(name), cast.task) for name in names]
    height = max(len(column) for column in columns)
    widths = [max(len(line) for line in column) for column in columns]
    padded = [column + [""] * (height - len(column)) for column in columns]
    return [
        "   ".join(line.ljust(width) for line, width in zip(lines, widths, strict=True)).rstrip()
        for lines in zip(*padded, strict=True)
    ]


def _column(name: str, model: nn.Module, task: Task) -> list[str]:
    found = rows(model, task)
    cells = [("PATH", "SHAPE", "STRIDE", "PARAMETERS")] + [
        (
            row.path,
            " x ".join(map(str, row.shape)) or "scalar",
            "" if row.stride is None else str(row.stride),
            f"{row.parameters:,}",
        )
        for row in found
    ]
    widths = [max(len(cell[i]) for cell in cells) for i in range(4)]
    lines = [
        f"{path:<{widths[0]}}  {shape:<{widths[1]}}  {stride:>{widths[2]}}  {count:>{widths[3]}}"
        for path, shape, stride, count in cells
    ]
    total = sum(parameter.numel() for parameter in model.parameters())
    return [f"{name}: {total:,} parameters", *lines]


@torch.no_grad()
def tap_lines(stage: Stage, cast: Cast) -> list[str]:
    """Every tap of a stage on every net it names, with the shape it yields."""
    lines = []
    for tap in stage.taps.values():
        for name, path in tap.paths.items():
            model = cast.module(name)
            taps = Taps(model, {tap.name: path}, name)
            training = model.training
            model.eval()
            try:
                with taps.armed():
                    cast.task.signals(model, cast.task.example(2), {})
                found = taps.take()
            finally:
                model.train(training)
                taps.remove()
            for signal, tensor in found.items():
                lines.append(f"{signal}  {name}  {path}  {' x '.join(map(str, tensor.shape[1:]))}")
    return lines
