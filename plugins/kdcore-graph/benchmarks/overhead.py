"""What a step of `fit` costs beside the step itself: a full batch on a small graph, against the same loop by hand.

    python benchmarks/overhead.py [--steps 300] [--rounds 5]

The student learns from the teacher's logits on the whole graph (GLNN), ten updates of each batch. Both run in turn,
A B A B, in one process, with the same nets, optimizer and data; the figure is the median over rounds of the difference
of the CPU time that an update takes, on one thread. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from kdcore.assemble import BuiltStage, assemble
from kdcore.build import Builder
from kdcore.losses import functional
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.run.quiet import quiet
from kdcore.run.trainer import Configuration, make_trainer
from kdcore_graph.optimizers import adam

INNER = 10
"""Updates of each batch."""

RECIPE = """\
kdcore: 1
name: overhead
task: {{use: graph.nodes}}
data: {{use: graph.nodes, source: {{use: graph.digits}}, steps: {steps}}}
models: {{teacher: {{use: graph.gnn, width: 32}}, student: {{use: graph.mlp, width: 32}}}}
stages:
  teach: {{train: teacher, losses: {{ce: {{use: cross_entropy}}}}}}
  distil: {{train: student, teachers: [teacher]}}
losses: {{kd: {{use: kl}}}}
optimizer: {{use: graph.adam, inner_steps: {inner}}}
trainer: {{max_epochs: 1, enable_progress_bar: false, accelerator: cpu}}
logger: null
"""


class Clock(pl.Callback):
    """Times the steps of an epoch, without what is before and after."""

    def __init__(self) -> None:
        self.start = self.seconds = 0.0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self.start = time.process_time()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds = time.process_time() - self.start


def stage(folder: Path, steps: int) -> tuple[Builder, BuiltStage]:
    path = folder / "overhead.yaml"
    path.write_text(RECIPE.format(steps=steps // INNER, inner=INNER))
    plugins = Plugins()
    recipe = read([path], [], plugins)
    builder = Builder(recipe, plugins, 0, folder, lambda line: None)
    return builder, assemble(builder, recipe.stages["distil"])


def ours(folder: Path, steps: int) -> float:
    builder, built = stage(folder, steps)
    clock = Clock()
    trainer = make_trainer(
        built.stage, folder, Configuration(builder.recipe, "distil", lambda line: None), callbacks=[clock], loggers=[],
        monitor=built.distiller.monitored, mode="max",
    )  # fmt: skip
    trainer.fit(built.distiller, datamodule=built.data)
    return 1e3 * clock.seconds / (steps - INNER)


def by_hand(folder: Path, steps: int) -> float:
    _, built = stage(folder, steps)
    built.data.data.trainer = None
    batch = next(iter(built.data.data.train_dataloader()))
    student, teacher = built.cast.module("student").train(), built.cast.module("teacher")
    with torch.no_grad():
        target = teacher(batch["features"], batch["edges"])["logits"]
    optimizer = adam(built.distiller._parameter_groups())  # the same groups: biases do not decay
    start = 0.0
    for step in range(steps):
        if step == INNER:
            start = time.process_time()
        optimizer.zero_grad()
        functional.kl(student(batch["features"])["logits"], target).mean().backward()
        optimizer.step()
    return 1e3 * (time.process_time() - start) / (steps - INNER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as `fit` does where there is no GPU
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            (by_hand(Path(folder), options.steps), ours(Path(folder), options.steps)) for _ in range(options.rounds)
        ]
    for hand, fit in rows:
        print(f"by hand {hand:.3f} ms  fit {fit:.3f} ms")
    print(f"overhead a step: median {statistics.median(fit - hand for hand, fit in rows):.3f} ms")


if __name__ == "__main__":
    main()
