"""What distilling costs beyond its parts: a step of `fit` against the teacher's forward and the student's step alone.

    python benchmarks/step.py [--steps 30] [--rounds 5] [--device cpu] [--size 64 96] [--batch 8] [--clock wall]

Three things are timed, on the same batches: the teacher's forward without gradients (A), a step of the student alone
with cross-entropy, forward, backward and update (B), and a step of the Distiller, which is both and the distillation
loss (C). They run in turn, A B C A B C, in one process; the figure is the median over rounds of C / (A + B). The goal
is 1.05.

A and B are loops by hand, without Lightning; C is what `fit` runs. `--clock processor` counts the seconds of this
process on all of its threads, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from kdcore.signals import IGNORE, Batch
from kdcore.task import Task
from kdcore.testing.cost import StepCost, told
from torch import Tensor, nn
from torch.nn import functional as F

RECIPE = """\
kdcore: 1
name: step
task: {{use: segmentation.semantic}}
data: {{use: segmentation.digits, size: [{height}, {width}], batch_size: {batch}}}
models:
  teacher: {{use: segmentation.smp, arch: fpn, encoder: resnet34}}
  student:
    use: segmentation.smp
    arch: fpn
    encoder: tu-mobilenetv3_small_050
    options: {{decoder_pyramid_channels: 64, decoder_segmentation_channels: 32}}
stages:
  teach: {{train: teacher, losses: {{ce: {{use: cross_entropy}}}}}}
  distil: {{train: student, teachers: [teacher]}}
losses:
  ce: {{use: cross_entropy}}
  {loss}
optimizer: {{use: adamw, lr: 1.0e-3}}
trainer: {{max_steps: {steps}, devices: 1, accelerator: {accelerator}}}
logger: null
"""

LOSSES = {"kl": "kd: {use: kl}", "cwd": "cwd: {use: segmentation.cwd, weight: 3.0}"}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def supervised(task: Task, student: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(student(batch["image"]), batch["labels"], ignore_index=IGNORE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--loss", choices=LOSSES, default="kl")
    arguments = parser.parse_args()
    device, (height, width) = torch.device(arguments.device), arguments.size
    text = RECIPE.format(
        height=height, width=width, batch=arguments.batch, steps=arguments.steps, loss=LOSSES[arguments.loss],
        accelerator="gpu" if device.type == "cuda" else "cpu",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "step.yaml"
        recipe.write_text(text, encoding="utf-8")
        cost = StepCost(
            recipe, forward=lambda net, batch: net(batch["image"]), supervised=supervised, device=device,
            clock=CLOCKS[arguments.clock],
        )  # fmt: skip
        told(cost.rounds(arguments.rounds), goal=1.05)


if __name__ == "__main__":
    main()
