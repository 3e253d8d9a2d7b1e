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

from kdcore.signals import IGNORE, Batch
from kdcore.task import Task
from kdcore.testing.cost import measure, parser
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


def supervised(task: Task, student: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(student(batch["image"]), batch["labels"], ignore_index=IGNORE)


def main() -> None:
    options = parser(__doc__, losses=LOSSES, size=(64, 96)).parse_args()
    measure(options, RECIPE, supervised=supervised, loss=LOSSES[options.loss])


if __name__ == "__main__":
    main()
