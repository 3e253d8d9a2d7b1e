"""What the fit loop itself costs: kdcore as `fit` runs it against Lightning's barest trainer around a step by hand.

    python benchmarks/overhead.py [--steps 2000] [--rounds 5]

Both train the same nets on the same batches with the same optimizer: an MLP teacher (64-512-512-10), an MLP
student, cross-entropy and KL at temperature 2. The two run in turn, A B A B, in one process; the figure is the
median over rounds of the ratio of their times per step. The goal is 1.05.
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
from torch import Tensor, nn
from torch.nn import functional as F

from kdcore.binding import BoundLoss, reads_of
from kdcore.callbacks.gpu import GPU
from kdcore.cast import Cast
from kdcore.data.arrays import Columns
from kdcore.data.loader import Loader
from kdcore.distiller import Distiller
from kdcore.losses.cross_entropy import CrossEntropy
from kdcore.losses.kl import KL
from kdcore.metrics.accuracy import Accuracy
from kdcore.models.mlp import MLP
from kdcore.optimizers import adamw
from kdcore.parameters import group_parameters
from kdcore.recipe.schema import Recipe, Ref, Slot, Stage
from kdcore.run.history import History
from kdcore.run.quiet import hide_absent_gpus, quiet
from kdcore.run.trainer import Configuration, make_trainer
from kdcore.scores import Scores
from kdcore.tasks.classify import Classify
from kdcore.teachers import Frozen

BATCH = 128


def loader(samples: int) -> Loader:
    generator = torch.Generator().manual_seed(0)
    columns = Columns(
        {
            "id": torch.arange(samples),
            "image": torch.rand(samples, 64, generator=generator),
            "labels": torch.randint(10, (samples,), generator=generator),
        }
    )
    return Loader(columns, batch_size=BATCH, seed=0, shuffle=True)


def nets() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return MLP(classes=10, features=64, hidden=[512, 512]), MLP(classes=10, features=64, hidden=[128])


class ByHand(pl.LightningModule):
    """The same step, as a person would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = nets()
        self.teacher.eval().requires_grad_(False)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        with torch.no_grad():
            teacher = self.teacher(batch["image"])
        student = self.student(batch["image"])
        kd = F.kl_div(
            F.log_softmax(student / 2.0, -1), F.log_softmax(teacher / 2.0, -1), reduction="batchmean", log_target=True
        )
        return 0.1 * F.cross_entropy(student, batch["labels"]) + 0.9 * 4.0 * kd

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(group_parameters({"student": self.student}, {}), lr=1e-3)


def by_hand(steps: int) -> float:
    trainer = pl.Trainer(barebones=True, max_epochs=1, accelerator="cpu", use_distributed_sampler=False)
    module, batches = ByHand(), loader(steps * BATCH)
    return timed(lambda: trainer.fit(module, batches), steps)


def kdcore(steps: int, *, bar: bool = True, gpu: bool = True) -> float:
    teacher, student = nets()
    task = Classify(classes=10)
    cast = Cast(task, {"student": student}, {"teacher": Frozen(teacher)})
    losses = []
    for name, loss, weight in (("ce", CrossEntropy(), 0.1), ("kd", KL(temperature=2.0), 0.9)):
        roles = {"student": Ref("student"), "teacher": Ref("teacher")}
        losses.append(
            BoundLoss(name, loss, weight=weight, roles=roles, reads=reads_of(loss, roles, signal=None, read={}))
        )
    module = Distiller(
        "distil",
        cast,
        losses=losses,
        scores={"student": Scores({"accuracy": Accuracy()})},
        teachers=("teacher",),
        optimizer=lambda groups: adamw(groups, lr=1e-3),
        parameter_groups=lambda: group_parameters({"student": student}, {}),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slot = Slot("task", "classify")
        stage = Stage(
            "distil",
            "stages.distil",
            slot,
            slot,
            trainer={"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": bar, "limit_val_batches": 0},
        )
        configuration = Configuration(Recipe("bench", 0, slot, slot, {}, {}), "distil", print)
        trainer = make_trainer(
            stage,
            folder,
            configuration,
            callbacks=[GPU()] if gpu else [],
            loggers=[History(folder / "metrics.csv")],
            monitor=module.monitored,
            mode="max",
        )
        batches = loader(steps * BATCH)
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        hide_absent_gpus()  # as the command line does
        try:
            return timed(lambda: trainer.fit(module, batches), steps)
        finally:
            if before is None:
                os.environ.pop("CUDA_VISIBLE_DEVICES", None)


def plain(steps: int) -> float:
    """No Lightning at all: the floor."""
    module = ByHand()
    optimizer = module.configure_optimizers()
    batches = loader(steps * BATCH)

    def loop() -> None:
        for i, batch in enumerate(batches):
            optimizer.zero_grad()
            module.training_step(batch, i).backward()
            optimizer.step()

    return timed(loop, steps)


def timed(run: Any, steps: int) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    quiet()
    for warm in (plain, by_hand, kdcore):
        warm(200)
    rows = []
    for _ in range(options.rounds):
        rows.append((plain(options.steps), by_hand(options.steps), kdcore(options.steps)))
        print(
            "  ".join(
                f"{name} {value:.3f} ms" for name, value in zip(("plain", "barebones", "kdcore"), rows[-1], strict=True)
            )
        )
    ratios = [ours / theirs for _, theirs, ours in rows]
    print(f"kdcore / barebones: median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
    print(f"kdcore / plain loop: median {statistics.median([ours / floor for floor, _, ours in rows]):.3f}")


if __name__ == "__main__":
    main()
