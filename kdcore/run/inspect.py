"""Two nets side by side: where their activations are, what shape, at what stride, with how many parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.build import Builder
from kdcore.cast import Cast
from kdcore.errors import RunError
from kdcore.recipe.schema import Stage
from kdcore.taps import Taps
from kdcore.task import Task, evaluating

SAMPLES = 2
"""In the batch that the nets are run on."""


@dataclass
class Row:
    """One activation of a net, as a tap would see it.

    Attributes:
        path: of the module, as a tap names it; with the element (``block/0``) where it gives several tensors.
        shape: without the batch.
        stride: how many times smaller a map (C, H, W) is than the input's; ``None`` for what is no map.
        parameters: of the module with everything inside.
        listed: whether it tells more than the block it is in: not a layer that gives the block's own shape.
        calls: how often it ran in one forward pass; a tap of one that ran twice gives two signals.
    """

    path: str
    shape: tuple[int, ...]
    stride: int | None
    parameters: int
    listed: bool = True
    calls: int = 1


@torch.no_grad()
def rows(model: nn.Module, task: Task) -> list[Row]:
    """Every module that gives tensors, in the order in which they finish."""
    example = task.example(SAMPLES)
    height = next((value.shape[-2] for value in example.values() if isinstance(value, Tensor) and value.ndim == 4), 0)
    seen: dict[str, Row] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            parameters = sum(parameter.numel() for parameter in module.parameters())
            for place, tensor in _tensors(path, output):
                calls = seen[place].calls + 1 if place in seen else 1
                seen[place] = Row(place, tuple(tensor.shape[1:]), _stride(height, tensor), parameters, calls=calls)

        return hook

    handles = [module.register_forward_hook(keep(path)) for path, module in model.named_modules() if path]
    try:
        with evaluating([model]):
            task.signals(model, example, {})
    finally:
        for handle in handles:
            handle.remove()
    shapes = {row.path.partition("/")[0]: row.shape for row in seen.values()}
    for row in seen.values():
        module = row.path.partition("/")[0]
        block = shapes.get(module.rpartition(".")[0])
        row.listed = row.shape != block or any(True for _ in model.get_submodule(module).children())
    return list(seen.values())


def _tensors(path: str, output: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an output and what a tap calls them: ``block``, ``block/0``, ``block/last_hidden_state``."""
    if isinstance(output, Tensor):
        yield path, output
        return
    items = (
        output.items() if isinstance(output, Mapping) else enumerate(output) if isinstance(output, tuple | list) else ()
    )
    for name, value in items:
        if isinstance(value, Tensor):
            yield f"{path}/{name}", value


def _stride(height: int, tensor: Tensor) -> int | None:
    is_map = tensor.ndim == 4 and 0 < tensor.shape[-2] <= height
    return round(height / tensor.shape[-2]) if is_map else None


def inspect(stage: Stage, builder: Builder) -> list[str]:
    """What ``inspect`` prints: the stage's nets, members of ensembles among them, then its taps.

    Raises:
        RunError: the stage has no nets.
    """
    if stage.do is not None:
        raise RunError(f"stage `{stage.name}` has no nets to show: it runs the action `{stage.do.use}`")
    task = builder.task(stage.task, builder.data(stage.data))
    cast = builder.bare_cast(tuple(dict.fromkeys([*stage.train, *stage.teachers, *_tapped(stage)])), task)
    lines = table(cast, tuple(cast.frozen))
    taps = tap_lines(stage, cast)
    return [*lines, "", *taps] if taps else lines


def table(cast: Cast, names: tuple[str, ...]) -> list[str]:
    """Nets in columns, one beside the other; layers that only repeat their block's shape are counted, not listed."""
    found = {name: rows(cast.module(name), cast.task) for name in names}
    columns = [_column(name, cast.module(name), found[name]) for name in names]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "   ".join(line.ljust(width) for line, width in zip(cells, widths, strict=True)).rstrip()
        for cells in zip_longest(*columns, fillvalue="")
    ]
    hidden = [row.path for several in found.values() for row in several if not row.listed]
    if hidden:
        lines += [
            "",
            f"not listed: {len(hidden)} layers that give their block's shape; a tap may name them: {hidden[0]}",
        ]
    return lines


def _column(name: str, model: nn.Module, found: list[Row]) -> list[str]:
    cells = [("PATH", "SHAPE", "STRIDE", "PARAMETERS")] + [
        (
            row.path if row.calls == 1 else f"{row.path} (runs {row.calls} times)",
            _shape(row.shape),
            "" if row.stride is None else str(row.stride),
            f"{row.parameters:,}",
        )
        for row in found
        if row.listed
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
    cells = [("TAP", "MODEL", "PATH", "SHAPE")]
    for tap in stage.taps.values():
        for name, path in tap.paths.items():
            follower = cast.followers.get(name)  # it has the same modules as the model it follows
            model = cast.module(name if follower is None else follower.of)
            taps = Taps(model, {tap.name: path}, name)
            try:
                with evaluating([model]), taps.armed():
                    cast.task.signals(model, cast.task.example(SAMPLES), {})
                found = taps.take()
            finally:
                taps.remove()
            cells += [(signal, name, path, _shape(tuple(tensor.shape[1:]))) for signal, tensor in found.items()]
    widths = [max(len(cell[i]) for cell in cells) for i in range(4)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(cell, widths, strict=True)).rstrip() for cell in cells]
    return lines if len(cells) > 1 else []


def _tapped(stage: Stage) -> list[str]:
    return [name for tap in stage.taps.values() for name in tap.paths]


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
