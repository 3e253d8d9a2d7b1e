"""What a step of `fit` costs beyond what it cannot do without: the teacher's forward and the student's own step."""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from kdcore.assemble import assemble
from kdcore.build import Builder
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.run.history import History
from kdcore.run.quiet import hide_absent_gpus, quiet
from kdcore.run.trainer import Configuration, make_trainer
from kdcore.signals import Batch
from kdcore.task import Task

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
"""The second counts this process alone, on all of its threads, which other programs disturb less."""


@dataclass(frozen=True)
class Cost:
    """Seconds a step, in one round.

    Attributes:
        teacher: its forward without gradients.
        student: its forward, its loss, backward and update, without a teacher.
        distil: a step of the distiller, which is both and the distillation loss.
    """

    teacher: float
    student: float
    distil: float

    @property
    def ratio(self) -> float:
        """Of the whole to its parts."""
        return self.distil / (self.teacher + self.student)

    def __str__(self) -> str:
        return (
            f"teacher {1e3 * self.teacher:.1f} ms, student {1e3 * self.student:.1f} ms, "
            f"distilling {1e3 * self.distil:.1f} ms a step: {self.ratio:.3f}x"
        )


class StepCost:
    """Times the three on the same batches, in turn, in one process.

    The parts are loops by hand without Lightning; the whole is what `fit` runs, with its line of progress, its metrics
    file and its checks for numbers gone wrong, but without validation.

    Args:
        recipe: with `trainer.max_steps`, the models `teacher` and `student`, and a stage `distil`. All of its training
            batches are held on the device; the last is taken for a short one and not used.
        forward: the teacher's forward, on a batch.
        supervised: the student's loss on a batch, without a teacher.
        device: where all of it happens.
        clock: seconds; ``time.process_time`` counts those of this process alone, on all of its threads.

    Raises:
        RecipeError: the recipe is wrong.
    """

    def __init__(
        self,
        recipe: Path,
        *,
        forward: Callable[[nn.Module, Batch], object],
        supervised: Callable[[Task, nn.Module, Batch], Tensor],
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        quiet()
        hide_absent_gpus()
        plugins = Plugins()
        self._recipe = read([recipe], (), plugins)
        self._folder = recipe.parent
        self._builder = Builder(self._recipe, plugins, 0, self._folder, lambda line: None)
        self._stage = self._recipe.stages["distil"]
        self._forward, self._supervised, self._device, self._clock = forward, supervised, device, clock
        data = self._builder.data(self._stage.data)
        self._task = self._builder.task(self._stage.task, data)
        loader = data.train_dataloader()
        self._batches: Sequence[Batch] = [{name: x.to(device) for name, x in batch.items()} for batch in loader][:-1]
        self._steps = int(self._stage.trainer["max_steps"])

    def rounds(self, number: int) -> Iterator[Cost]:
        """One after another, after one that warms up and is not told."""
        for place in range(number + 1):
            cost = Cost(self._teacher(), self._student(), self._distil())
            if place:
                yield cost

    def _net(self, name: str) -> nn.Module:
        return self._builder.net(name, self._task.facts).to(self._device)

    def _teacher(self) -> float:
        net = self._net("teacher").eval()

        def step(batch: Batch) -> None:
            with torch.no_grad():
                self._forward(net, batch)

        return self._timed(step)

    def _student(self) -> float:
        net = self._net("student").train()
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)

        def step(batch: Batch) -> None:
            optimizer.zero_grad()
            backward: Callable[[], Any] = self._supervised(self._task, net, batch).backward
            backward()
            optimizer.step()

        return self._timed(step)

    def _timed(self, step: Callable[[Batch], None]) -> float:
        start = self._now()
        for number in range(self._steps):
            step(self._batches[number % len(self._batches)])
        return (self._now() - start) / self._steps

    def _distil(self) -> float:
        built = assemble(self._builder, self._stage)
        timer = _Timer(self._now)
        trainer = make_trainer(
            replace(self._stage, trainer={**self._stage.trainer, "limit_val_batches": 0}),
            self._folder,
            Configuration(self._recipe, "distil", lambda line: None),
            callbacks=[timer],
            loggers=[History(self._folder / "metrics.csv")],
            monitor=built.distiller.monitored,
            mode=built.cast.task.primary[1],
        )
        try:
            trainer.fit(built.distiller, datamodule=built.data)
        finally:
            built.close()
        return timer.seconds

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()


class _Timer(Callback):
    """Times the steps of a trainer, without its start and without the first step."""

    seconds = 0.0

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self._start = now, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step == 1:
            self._start = self._now()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = (self._now() - self._start) / (trainer.global_step - 1)


def told(costs: Iterator[Cost], goal: float) -> None:
    """Prints every round and the median of the ratios."""
    ratios = []
    for number, cost in enumerate(costs, start=1):
        print(f"round {number}: {cost}")
        ratios.append(cost.ratio)
    print(f"median {statistics.median(ratios):.3f}x of {len(ratios)} rounds (goal: {goal}x)")


def parser(about: str | None, *, losses: Iterable[str], size: tuple[int, int]) -> ArgumentParser:
    """The options of a benchmark of pictures: of its recipe, and of how it is measured.

    Args:
        about: the script's docstring.
        losses: names for ``--loss``, the first by default.
        size: (height, width) by default.
    """
    made = ArgumentParser(description=about, formatter_class=RawDescriptionHelpFormatter)
    made.add_argument("--steps", type=int, default=30)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--device", default="cpu")
    made.add_argument("--size", type=int, nargs=2, default=size)
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--clock", choices=CLOCKS, default="wall")
    made.add_argument("--loss", choices=(names := list(losses)), default=names[0])
    return made


def measure(
    options: Namespace, template: str, *, supervised: Callable[[Task, nn.Module, Batch], Tensor], **said: str
) -> None:
    """Fills in a recipe of pictures, measures it and prints what it costs.

    Args:
        options: of :func:`parser`.
        template: a recipe with ``{height}``, ``{width}``, ``{batch}``, ``{steps}``, ``{accelerator}``, and ``said``.
        supervised: see :class:`StepCost`.
        said: what else the recipe leaves open.
    """
    device, (height, width) = torch.device(options.device), options.size
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    given = {"height": height, "width": width, "batch": options.batch, "steps": options.steps} | said
    with TemporaryDirectory() as folder:
        recipe = Path(folder) / "step.yaml"
        recipe.write_text(template.format(accelerator=accelerator, **given), encoding="utf-8")
        cost = StepCost(
            recipe,
            forward=lambda net, batch: net(batch["image"]),
            supervised=supervised,
            device=device,
            clock=CLOCKS[options.clock],
        )
        told(cost.rounds(options.rounds), goal=1.05)
