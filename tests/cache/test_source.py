from __future__ import annotations

import fcntl
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.cache.format import Writer
from kdcore.cache.source import CACHE, CachedTeacher, Pass
from kdcore.errors import RunError
from kdcore.recipe.schema import Cache
from kdcore.signals import Batch, Signals

from .conftest import said

SAMPLES, BATCH = 40, 8
FACTS = {"teacher": "abc"}
Usage = namedtuple("Usage", "free")


class World:
    """Data, a teacher that counts how often it is run, and what was said."""

    def __init__(self, *, seeds: bool = False, **cache: Any) -> None:
        self.runs: list[tuple[list[int], str | None]] = []
        self.lines: list[str] = []
        self.seeds = seeds
        self.of_pass = Pass(
            "teacher",
            Cache("teacher", **{"dtype": "float32", **cache}),
            -1,
            SAMPLES,
            self.batches,
            self.run,
            self.lines.append,
        )

    def batch(self, ids: Tensor) -> Batch:
        batch: Batch = {"id": ids, "views": {"weak": {"shift": 1.0}}}
        return batch | ({"seed": ids + 500} if self.seeds else {})

    def batches(self, done: int) -> Iterator[Batch]:
        for start in range(done, SAMPLES, BATCH):
            yield self.batch(torch.arange(start, start + BATCH))

    def run(self, batch: Batch, view: str | None) -> Signals:
        self.runs.append((batch["id"].tolist(), view))
        signals = said(batch["id"])
        return {**signals, "logits": signals["logits"] + (1.0 if view else 0.0)}

    def teacher(self, folder: Path, *views: str | None) -> CachedTeacher:
        facts = {view: {**FACTS, "view": view} for view in views or (None,)}
        teacher = CachedTeacher("teacher", facts)
        teacher.open(self.of_pass.write(folder, facts))
        return teacher


def test_what_is_read_is_what_the_teacher_said(tmp_path: Path) -> None:
    world = World(keep=("logits", "frames"))
    teacher = world.teacher(tmp_path)
    ids = torch.tensor([33, 2, 2, 39])
    batch = teacher.attach({"id": ids, "labels": ids})
    assert torch.equal(batch["labels"], ids)
    signals = teacher.signals(None, batch)
    expected = said(ids)
    assert sorted(signals) == ["frames", "frames.lengths", "logits"]
    assert all(torch.equal(signals[name], expected[name]) for name in signals)


def test_signals_are_where_the_batch_is(tmp_path: Path) -> None:
    teacher = World(topk=2).teacher(tmp_path)
    batch = teacher.attach({"id": torch.arange(3)})
    batch[CACHE] = {view: {k: v.to("meta") for k, v in columns.items()} for view, columns in batch[CACHE].items()}
    logits = teacher.signals(None, batch)["logits"]
    assert logits.device.type == "meta"
    assert logits.shape == (3, 6)


def test_the_teacher_sees_each_sample_once_and_never_again(tmp_path: Path) -> None:
    world = World()
    world.teacher(tmp_path)
    # the first batch once more, to learn the shapes
    assert [ids[0] for ids, _ in world.runs] == [0, 0, 8, 16, 24, 32]
    again = World()
    teacher = again.teacher(tmp_path)
    assert again.runs == []
    assert again.lines == []
    assert len(teacher.attach({"id": torch.arange(40)})[CACHE][""]["logits"]) == 40


def test_each_view_is_kept(tmp_path: Path) -> None:
    world = World()
    teacher = world.teacher(tmp_path, None, "weak")
    batch = teacher.attach(world.batch(torch.tensor([7, 3])))
    plain, weak = teacher.signals(None, batch)["logits"], teacher.signals("weak", batch)["logits"]
    assert torch.equal(weak, plain + 1.0)
    assert {view for _, view in world.runs} == {None, "weak"}
    assert "40 samples x 2 views x 40 bytes = 3.2 kB" in world.lines[0]


def test_the_seed_of_the_batch_is_part_of_the_key(tmp_path: Path) -> None:
    world = World(seeds=True)
    teacher = world.teacher(tmp_path)
    ids = torch.tensor([4, 9])
    assert torch.equal(teacher.signals(None, teacher.attach(world.batch(ids)))["logits"], said(ids)["logits"])
    with pytest.raises(RunError, match="no sample with id 4 and augmentation seed 505"):
        teacher.attach({"id": ids, "seed": ids + 501})


def test_it_says_what_it_will_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(12_345_000_000))
    world = World(keep=("logits", "frames"), topk=2, dtype="float16")
    world.teacher(tmp_path)
    # 16 for the keys, 2 x (2 + 1) + 8 for the logits, 2 x 2 x 15/8 on average and 8 for the frames
    assert world.lines[0] == f"caches `teacher`: 40 samples x 1 view x 46 bytes = 1.8 kB into {tmp_path} (12.3 GB free)"
    shares = [(said(torch.arange(8))["logits"] / t).softmax(-1).topk(2).values.sum(-1).mean().item() for t in (1, 2, 4)]
    assert shares[0] > shares[1] > shares[2]
    assert world.lines[1] == (
        f"of what `teacher` says, the top 2 classes hold {100 * shares[0]:.1f} % at temperature 1, "
        f"{100 * shares[1]:.1f} % at temperature 2, {100 * shares[2]:.1f} % at temperature 4; the rest is evened"
    )
    assert world.lines[2:] == ["caching `teacher` takes about 0 s more"]


@pytest.mark.parametrize(("free", "fits"), [(1599, False), (1600, True)])
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(free))
    world = World()
    if fits:
        world.teacher(tmp_path)
        return
    with pytest.raises(
        RunError,
        match=r"does not fit on the disk: 40 samples x 1 view x 40 bytes = 1.6 kB, and 1.6 kB are free .*`topk`",
    ):
        world.teacher(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_an_interrupted_pass_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Writer.__init__.__kwdefaults__, "shard_bytes", 1)
    world = World()
    world.of_pass.__dict__["batches"] = lambda done: (b for b in [*world.batches(done)][: 3 if done == 0 else None])
    with pytest.raises(RunError, match="got 24 samples of 40"):
        world.teacher(tmp_path)
    again = World()
    again.teacher(tmp_path)
    assert [ids[0] for ids, _ in again.runs] == [0, 24, 32]
    assert "caches `teacher`: 16 samples x 1 view" in again.lines[0]
    assert "24 samples are there already" in again.lines[0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_teacher_that_gives_no_numbers_is_not_cached(tmp_path: Path, value: float) -> None:
    world = World()

    def run(batch: Batch, view: str | None) -> Signals:
        logits = said(batch["id"])["logits"]
        logits[batch["id"] == 21, 3] = value
        return {"logits": logits}

    world.of_pass.__dict__["run"] = run
    with pytest.raises(RunError, match="`teacher` gives NaN or inf in `logits`, sample id 21: it is not cached"):
        world.teacher(tmp_path)


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (
            {"keep": ("hidden",)},
            "`cache.keep` names `hidden`, and the teacher `teacher` gives `frames`, `frames.lengths`",
        ),
        ({"topk": 6}, "`teacher` cannot be cached: `logits` has 6 classes, and topk: 6 keeps no fewer"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, cache: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        World(**cache).teacher(tmp_path)


def test_a_tap_with_several_activations_is_kept_whole(tmp_path: Path) -> None:
    world = World(keep=("tap.x",))
    world.of_pass.__dict__["run"] = lambda batch, _: {
        "tap.x@0": batch["id"].float().unsqueeze(1),
        "tap.x@1": -batch["id"].float().unsqueeze(1),
    }
    teacher = world.teacher(tmp_path)
    signals = teacher.signals(None, teacher.attach({"id": torch.tensor([5])}))
    assert {name: value.item() for name, value in signals.items()} == {"tap.x@0": 5.0, "tap.x@1": -5.0}


def test_another_runs_cache_is_refused(tmp_path: Path) -> None:
    World().teacher(tmp_path)
    world = World()
    with pytest.raises(RunError, match="was written with teacher = 'abc', and this stage has 'xyz'"):
        world.of_pass.write(tmp_path, {None: {"teacher": "xyz", "view": None}})
    assert world.runs == []


def test_a_run_that_writes_the_same_cache_is_waited_for(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        world = World()
        thread = threading.Thread(target=world.teacher, args=(tmp_path,))
        thread.start()
        until = time.monotonic() + 5
        while not world.lines and time.monotonic() < until:
            time.sleep(0.01)
        assert world.lines == [f"waits for another run that writes {tmp_path}"]
        assert world.runs == []
        fcntl.flock(other, fcntl.LOCK_UN)
    thread.join(5)
    assert len(world.runs) == 6
