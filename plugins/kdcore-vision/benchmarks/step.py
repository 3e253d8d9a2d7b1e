"""What a step costs beyond the teacher's forward and the student's own step.

    python benchmarks/step.py [--steps 60] [--rounds 5]

Bytes of 64x64, batch 32: a teacher of 2.8 million parameters that looks at 64x64, a student of 78 thousand that looks
at 48x48, cross-entropy and KL. By hand in plain PyTorch, and by `kdcore fit`'s own step, in turn, on one thread; the
figure is the median over rounds of the ratio of their processor times, which other programs disturb little. Goal: 1.05.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from kdcore.assemble import assemble
from kdcore.build import Builder
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.run.quiet import hide_absent_gpus, quiet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import interpolate

RECIPE = """\
kdcore: 1
name: step
task: {use: vision.classify}
data: {use: vision.folders, path: PICTURES, batch_size: 32, size: [64, 64], validation: 0.01}
models:
  teacher: {use: vision.timm, name: resnet10t, options: {channels: [48, 96, 192, 384], stem_width: 24}}
  student: {use: vision.timm, name: resnet10t, size: [48, 48], options: {channels: [8, 16, 32, 64], stem_width: 8}}
stages:
  teach: {train: teacher, losses: {ce: {use: cross_entropy}}}
  distil: {train: student, teachers: [teacher]}
losses: {ce: {use: cross_entropy}, kd: {use: kl, temperature: 2.0}}
optimizer: {use: sgd, lr: 0.01}
trainer: {max_epochs: 1}
logger: null
"""


def write(folder: Path, pictures: int) -> None:
    from PIL import Image

    for number in range(pictures):
        path = folder / f"class{number % 4}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.effect_noise((64, 64), 80).save(path)


def by_hand(batches: list[dict[str, Tensor]], teacher: nn.Module, student: nn.Module) -> float:
    """Processor seconds of all steps."""
    teacher.eval().requires_grad_(False)
    student.train()
    optimizer = torch.optim.SGD(student.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, nesterov=False, fused=True)
    start = time.process_time()
    for batch in batches:
        image = batch["image"].float() / 255
        with torch.no_grad():
            theirs = teacher((image - teacher.input_mean.view(1, -1, 1, 1)) / teacher.input_std.view(1, -1, 1, 1))
        small = interpolate(image, size=(48, 48), mode="bilinear", antialias=True)
        ours = student((small - student.input_mean.view(1, -1, 1, 1)) / student.input_std.view(1, -1, 1, 1))
        kd = F.kl_div(
            F.log_softmax(ours / 2, -1), F.log_softmax(theirs / 2, -1), reduction="batchmean", log_target=True
        )
        optimizer.zero_grad()
        (F.cross_entropy(ours, batch["labels"]) + 4 * kd).backward()
        optimizer.step()
    return time.process_time() - start


class Clock(pl.Callback):
    """Processor seconds between the beginning of the first step and the end of the last."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        self.start = self.start if index else time.process_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, index: int
    ) -> None:
        self.end = time.process_time()

    start = end = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    hide_absent_gpus()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "pictures", 4 + round(32 * options.steps / 0.99))
        (folder / "step.yaml").write_text(RECIPE.replace("PICTURES", str(folder / "pictures")), encoding="utf-8")
        plugins = Plugins()
        recipe = read([folder / "step.yaml"], (), plugins)
        builder = Builder(recipe, plugins, 0, folder, lambda line: None)
        stage = recipe.stages["distil"]
        data = builder.data(stage.data)
        batches = list(data.train_dataloader())
        ratios = []
        for number in range(options.rounds):
            built = assemble(builder, stage)
            teacher, student = built.cast.module("teacher"), built.cast.module("student")
            clock = Clock()
            trainer = pl.Trainer(
                max_epochs=1, accelerator="cpu", callbacks=[clock], logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
                use_distributed_sampler=False, default_root_dir=name,
            )  # fmt: skip
            trainer.fit(built.distiller, data.train_dataloader())
            ours = clock.end - clock.start
            theirs = by_hand(batches, teacher, student)
            built.close()
            ratios.append(ours / theirs)
            print(f"round {number}: kdcore {1e3 * ours / len(batches):.1f} ms a step, "
                  f"by hand {1e3 * theirs / len(batches):.1f} ms")  # fmt: skip
    print(f"ratio: {statistics.median(ratios):.3f} (goal 1.05)")


if __name__ == "__main__":
    main()
