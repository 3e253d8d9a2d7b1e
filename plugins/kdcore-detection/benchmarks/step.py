"""What distilling costs beyond its parts: a step of `fit` against the teacher's forward and the student's step alone.

    python benchmarks/step.py [--steps 30] [--rounds 5] [--device cpu] [--size 128 192] [--batch 8] [--clock wall]

Three things are timed, on the same batches: the teacher's forward without gradients (A), a step of the student alone,
its forward, the assignment of its positions, its supervised loss, backward and update (B), and a step of the Distiller,
which is both and the distillation loss (C). They run in turn, A B C A B C, in one process; the figure is the median
over rounds of C / (A + B). The goal is 1.05.

A and B are loops by hand, without Lightning; C is what `fit` runs. `--clock processor` counts the seconds of this
process on all of its threads, which other programs disturb less.
"""

from __future__ import annotations

from functools import partial

import torch
from kdcore.losses.base import Loss
from kdcore.signals import Batch
from kdcore.task import Task
from kdcore.testing.cost import measure, parser
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


def supervised(loss: Loss, task: Task, student: nn.Module, batch: Batch) -> Tensor:
    """What the student is trained with, its terms added up."""
    totals = loss(task.signals(student, batch, {}), {}, batch)
    return torch.stack([total.sum / total.count.clamp(min=1) for total in totals.values()]).sum()


def main() -> None:
    options = parser(__doc__, losses=LOSSES, size=(128, 192)).parse_args()
    kind, slot = LOSSES[options.loss]
    measure(options, RECIPE, supervised=partial(supervised, SUPERVISED[kind]()), kind=kind, loss=slot)


if __name__ == "__main__":
    main()
