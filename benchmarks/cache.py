"""What the teacher cache costs and saves: samples written and read a second, and the share of a step that it takes off.

    python benchmarks/cache.py [--samples 20000] [--steps 300] [--rounds 3] [--threads 1]

The same student is trained with its teacher run in every step and with its teacher read from the cache, in turn,
A B A B, in one process; the figure is the median over rounds. Nothing is asserted: the gain is the teacher's share of
a step, which is the recipe's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from kdcore.binding import BoundLoss, reads_of
from kdcore.cache.source import CachedTeacher, Pass
from kdcore.cast import Cast
from kdcore.data.arrays import Columns
from kdcore.data.loader import Loader
from kdcore.losses.kl import KL
from kdcore.models.convnet import ConvNet
from kdcore.models.mlp import MLP
from kdcore.optimizers import adamw
from kdcore.recipe.schema import Cache, Ref
from kdcore.signals import Batch, Signals
from kdcore.tasks.classify import Classify
from kdcore.teachers import Frozen

BATCH = 128
KEPT = {"dense float32": Cache("teacher", dtype="float32"), "top 10 float16": Cache("teacher", topk=10)}


def nets(kind: str, classes: int) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    if kind == "mlp":
        teacher = MLP(classes=classes, features=64, hidden=[512, 512])
        return teacher, MLP(classes=classes, features=64, hidden=[128]), (64,)
    size = (1, 16, 16)
    return ConvNet(classes=classes, channels=1, width=32), ConvNet(classes=classes, channels=1, width=8), size


def columns(samples: int, shape: tuple[int, ...]) -> Columns:
    generator = torch.Generator().manual_seed(0)
    return Columns({"id": torch.arange(samples), "image": torch.rand(samples, *shape, generator=generator)})


def loader(data: Columns, *, shuffle: bool) -> Loader:
    return Loader(data, batch_size=BATCH, seed=0, shuffle=shuffle)


def write(cast: Cast, data: Columns, cache: Cache, folder: Path) -> tuple[CachedTeacher, float]:
    """The opened cache, and samples written a second."""

    def batches(done: int) -> Iterator[Batch]:
        given = loader(data, shuffle=False)
        given.batches.seek(0, done // BATCH)
        return iter(given)

    def run(batch: Batch, view: str | None) -> Signals:
        ref = Ref("teacher", view)
        return cast.run((ref,), batch)[ref]

    teacher = CachedTeacher("teacher", [None])
    start = time.perf_counter()
    once = Pass("teacher", cache, -1, len(data), batches, run, lambda _: None)
    teacher.open(once.write(folder, {None: {}}))
    return teacher, len(data) / (time.perf_counter() - start)


def read(teacher: CachedTeacher, data: Columns) -> float:
    """Samples read a second, in a random order and ready for a loss."""
    ids = [{"id": batch["id"]} for batch in loader(data, shuffle=True)]
    start = time.perf_counter()
    for batch in ids:
        teacher.signals(None, teacher.attach(batch))
    return len(data) / (time.perf_counter() - start)


def step_time(cast: Cast, student: nn.Module, data: Columns, cache: CachedTeacher | None, steps: int) -> float:
    """Milliseconds a step."""
    roles: dict[str, Ref | tuple[Ref, ...]] = {"student": Ref("student"), "teacher": Ref("teacher")}
    loss = KL(temperature=2.0)
    bound = BoundLoss("kd", loss, weight=1.0, roles=roles, reads=reads_of(loss, roles, signal=None, read={}))
    optimizer = adamw([{"params": list(student.parameters())}], lr=1e-3)
    cast.cache = cache
    order = cast.order(bound.refs)
    batches = iter(())
    seconds = 0.0
    for step in range(steps + 10):
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader(data, shuffle=True))
            batch = next(batches)
        if cache is not None:
            batch = cache.attach(batch)
        total: Tensor = bound(cast.run(order, batch), batch)["kd"].sum
        optimizer.zero_grad()
        (total / BATCH).backward()
        optimizer.step()
        if step >= 10:
            seconds += time.perf_counter() - start
    cast.cache = None
    return 1000 * seconds / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch; other work on the machine disturbs one least")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for kind, classes in (("mlp", 10), ("mlp", 1000), ("convnet", 100)):
        teacher, student, shape = nets(kind, classes)
        cast = Cast(Classify(classes=classes), {"student": student}, {"teacher": Frozen(teacher)})
        data = columns(options.samples, shape)
        for name, kept in KEPT.items():
            if kept.topk is not None and kept.topk >= classes:
                continue
            with tempfile.TemporaryDirectory() as place:
                cached, written = write(cast, data, kept, Path(place))
                rows = [
                    (
                        step_time(cast, student, data, None, options.steps),
                        step_time(cast, student, data, cached, options.steps),
                    )
                    for _ in range(options.rounds)
                ]
                live, ours = (statistics.median(row[i] for row in rows) for i in (0, 1))
                size = sum(path.stat().st_size for path in Path(place).iterdir()) / len(data)
                speed = f"written {written:8.0f}/s  read {read(cached, data):8.0f}/s"
                saved = f"step {live:.2f} -> {ours:.2f} ms, {100 * (1 - ours / live):.0f} % saved"
                print(
                    f"{kind:8} {classes:4} classes  {name:14}  {size:5.0f} bytes/sample  {speed}  {saved}", flush=True
                )


if __name__ == "__main__":
    main()
