"""What distilling costs beyond its parts: a step of `fit` against the teacher's forward and the student's step alone.

    python benchmarks/step.py [--steps 30] [--rounds 5] [--device cpu] [--size 64 96] [--batch 8]

Three things are timed, on the same batches: the teacher's forward without gradients (A), a step of the student alone,
its forward, the assignment of its positions, its supervised loss, backward and update (B), and a step of the Distiller,
which is both and the distillation loss (C). They run in turn, A B C A B C, in one process; the figure is the median
over rounds of C / (A + B). The goal is 1.05.

A and B are loops by hand, without Lightning; C is what `fit` runs, with its progress bar, its metrics file and its
checks for numbers gone wrong.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from kdcore.assemble import assemble
from kdcore.build import Builder
from kdcore.losses.base import Loss
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.run.history import History
from kdcore.run.quiet import hide_absent_gpus, quiet
from kdcore.run.trainer import Configuration, make_trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from kdcore_detection.losses.fcos import FCOSLoss
from kdcore_detection.losses.gfl import GFLLoss

RECIPE = """\
kdcore: 1
name: step
task: {{use: detection.boxes}}
data: {{use: detection.digits, size: [{height}, {width}], batch_size: {batch}}}
models:
  teacher: {{use: detection.{kind}, backbone: timm/resnet18, levels: [3, 4, 5], width: 64, towers: 2}}
  student:
    use: detection.{kind}
    backbone: timm/resnet18
    options: {{channels: [16, 32, 64, 128], stem_width: 16}}
    levels: [3, 4, 5]
    width: 32
    towers: 1
stages:
  teach: {{train: teacher, losses: {{hard: {{use: detection.{kind}}}}}}}
  distil: {{train: student, teachers: [teacher]}}
taps: {{fpn: {{student: backbone.fpn.layer_blocks.*, teacher: backbone.fpn.layer_blocks.*}}}}
losses:
  hard: {{use: detection.{kind}}}
  {loss}
optimizer: {{use: adamw, lr: 1.0e-3}}
trainer: {{max_steps: {steps}, devices: 1, accelerator: {accelerator}}}
logger: null
"""

LOSSES = {
    "bckd": ("fcos", "kd: {use: detection.bckd}"),
    "fgd": ("fcos", "kd: {use: detection.fgd, at: fpn, weight: 0.03}"),
    "pkd": ("fcos", "kd: {use: pkd, at: fpn}"),
    "ld": ("gfl", "kd: {use: detection.ld, weight: 0.25}"),
}
"""The detectors that a loss is for, and its slot."""
SUPERVISED: dict[str, type[Loss]] = {"fcos": FCOSLoss, "gfl": GFLLoss}


class Clock(Callback):
    """Times the steps of a trainer, without its start and without the first step."""

    seconds = 0.0

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait, self._start = wait, 0.0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1:
            self._wait()
            self._start = time.perf_counter()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._wait()
        self.seconds = (time.perf_counter() - self._start) / (trainer.global_step - 1)


class Parts:
    """The nets of the recipe, and the three things that are timed."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.steps, self.folder, self.device = arguments.steps, folder, torch.device(arguments.device)
        path = folder / "step.yaml"
        height, width = arguments.size
        self.kind, slot = LOSSES[arguments.loss]
        accelerator = "gpu" if self.device.type == "cuda" else "cpu"
        text = RECIPE.format(
            height=height, width=width, batch=arguments.batch, steps=self.steps, kind=self.kind, loss=slot,
            accelerator=accelerator,
        )  # fmt: skip
        path.write_text(text, encoding="utf-8")
        plugins = Plugins()
        self.recipe = read([path], (), plugins)
        self.builder = Builder(self.recipe, plugins, 0, folder, lambda line: None)
        self.stage = self.recipe.stages["distil"]
        data = self.builder.data(self.stage.data)
        self.task = self.builder.task(self.stage.task, data)
        self.facts = self.task.facts
        loader = data.train_dataloader()
        self.batches = [{name: x.to(self.device) for name, x in batch.items()} for batch in loader]

    def net(self, name: str) -> nn.Module:
        return self.builder.net(name, self.facts).to(self.device)

    def batch(self, step: int) -> dict[str, Tensor]:
        return self.batches[step % (len(self.batches) - 1)]  # the last one is short

    def teacher(self) -> float:
        net = self.net("teacher").eval()

        def run() -> None:
            with torch.no_grad():
                for step in range(self.steps):
                    net(self.batch(step)["image"])

        return self.timed(run)

    def student(self) -> float:
        net = self.net("student").train()
        optimizer, loss = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True), SUPERVISED[self.kind]()

        def run() -> None:
            for step in range(self.steps):
                batch = self.batch(step)
                optimizer.zero_grad()
                totals = loss(self.task.signals(net, batch, {}), {}, batch)
                torch.stack([total.sum / total.count.clamp(min=1) for total in totals.values()]).sum().backward()
                optimizer.step()

        return self.timed(run)

    def distil(self) -> float:
        built = assemble(self.builder, self.stage)
        configuration = Configuration(self.recipe, "distil", lambda line: None)
        clock = Clock(self._wait)
        bare = {"limit_val_batches": 0}  # validation is no part of a step
        trainer = make_trainer(
            replace(self.stage, trainer={**self.stage.trainer, **bare}),
            self.folder,
            configuration,
            callbacks=[clock],
            loggers=[History(self.folder / "metrics.csv")],
            monitor=built.distiller.monitored,
            mode="max",
        )
        fit: Any = trainer.fit
        fit(built.distiller, datamodule=built.data)
        built.close()
        return clock.seconds

    def timed(self, run: Callable[[], None]) -> float:
        """Seconds a step."""
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        return (time.perf_counter() - start) / self.steps

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--loss", choices=LOSSES, default="bckd")
    arguments = parser.parse_args()
    quiet()
    hide_absent_gpus()
    with tempfile.TemporaryDirectory() as name:
        parts = Parts(arguments, Path(name))
        ratios = []
        for number in range(arguments.rounds + 1):
            teacher, student, distil = parts.teacher(), parts.student(), parts.distil()
            if number == 0:
                continue  # warms up
            ratios.append(distil / (teacher + student))
            print(
                f"round {number}: teacher {1e3 * teacher:.1f} ms, student {1e3 * student:.1f} ms, "
                f"distilling {1e3 * distil:.1f} ms a step: {ratios[-1]:.3f}x"
            )
    print(f"median {statistics.median(ratios):.3f}x of {arguments.rounds} rounds (goal: 1.05x)")


if __name__ == "__main__":
    main()
