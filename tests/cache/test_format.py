from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcore.cache.codec import Layout
from kdcore.cache.format import MANIFEST, Manifest, Writer
from kdcore.cache.reader import Reader
from kdcore.errors import RunError

from .conftest import BATCH, FACTS, SAMPLES, fill, ids_of, manifest, said


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cache_says_what_it_is(written: Path) -> None:
    text = json.loads((written / MANIFEST).read_text())
    assert text["schema"] == 1
    assert text["facts"] == FACTS
    assert text["samples"] == SAMPLES
    assert [(s["name"], s["shape"], s["stored"], s["packed"]) for s in text["signals"]] == [
        ("logits", [6], "float32", False),
        ("tap.deep", [2, 3], "bfloat16", False),
        ("frames", [2], "float32", True),
    ]
    assert sum(shard["samples"] for shard in text["shards"]) == SAMPLES
    assert len(text["shards"]) > 2
    assert sorted(content(written)) == [MANIFEST, *(f"shard-{i:05d}.bin" for i in range(len(text["shards"])))]
    for index, shard in enumerate(text["shards"]):
        assert (written / f"shard-{index:05d}.bin").stat().st_size == shard["bytes"]


def test_a_shard_is_plain_arrays(written: Path) -> None:
    """Whoever reads the manifest can read a shard without kdcore."""
    shard = json.loads((written / MANIFEST).read_text())["shards"][0]
    raw = (written / "shard-00000.bin").read_bytes()
    n = shard["samples"]
    ids = torch.frombuffer(bytearray(raw[: 8 * n]), dtype=torch.int64)
    assert torch.equal(ids, ids_of()[:n])
    at = -(-8 * n // 64) * 64  # `seed` begins at the next multiple of 64
    at = -(-(at + 8 * n) // 64) * 64  # and `logits` after it
    values = torch.frombuffer(bytearray(raw[at : at + 4 * 6 * n]), dtype=torch.float32).view(n, 6)
    assert torch.equal(values, said(ids)["logits"])


def killed(work: Callable[[], None]) -> None:
    """Do it in a child that is killed on the way."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child was to be killed"
    assert os.WTERMSIG(status) == signal.SIGKILL


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("place", ["between batches", "in a shard", "before the rename", "before the manifest"])
def test_a_writer_that_was_killed_goes_on(
    tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = tmp_path / "again"

    def work() -> None:
        writer = Writer(folder, manifest(), shard_bytes=1000)
        ids = ids_of()
        for start in range(0, SAMPLES, BATCH):
            if start == 3 * BATCH:
                if place == "in a shard":
                    monkeypatch.setattr("itertools.chain", die)
                elif place == "before the rename":
                    monkeypatch.setattr("os.fsync", die)
                elif place == "before the manifest":
                    monkeypatch.setattr(Manifest, "write", die)
                else:
                    die()
            part = ids[start : start + BATCH]
            writer.append(part, torch.zeros_like(part), said(part))

    killed(work)
    before = content(folder)
    writer = Writer(folder, manifest(), shard_bytes=1000)
    assert 0 < writer.done < SAMPLES
    assert writer.done % BATCH == 0

    finished = json.loads(before[MANIFEST])["shards"]
    fill(writer)
    writer.finish()
    after = content(folder)
    assert len(finished) >= 1
    assert all(after[f"shard-{i:05d}.bin"] == before[f"shard-{i:05d}.bin"] for i in range(len(finished)))
    assert after == content(written)


def test_finished_shards_are_not_written_again(tmp_path: Path) -> None:
    writer = Writer(tmp_path, manifest(), shard_bytes=1)
    ids = ids_of()[:BATCH]
    writer.append(ids, torch.zeros_like(ids), said(ids))
    before = (tmp_path / "shard-00000.bin").stat().st_mtime_ns
    writer = Writer(tmp_path, manifest(), shard_bytes=1)
    assert writer.done == BATCH
    fill(writer)
    writer.finish()
    assert (tmp_path / "shard-00000.bin").stat().st_mtime_ns == before


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".shard-00000.bin.part").write_bytes(b"half")
    Writer(tmp_path, manifest())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({**FACTS, "teacher": "xyz"}, "was written with teacher = 'abc', and this stage has 'xyz': it is not used"),
        ({**FACTS, "topk": 5}, "was written with topk = None, and this stage has 5"),
        ({**FACTS, "view": "weak"}, "was written with view = None, and this stage has 'weak'"),
    ],
)
def test_a_cache_of_something_else_is_refused_with_the_reason(
    written: Path, facts: dict[str, Any], message: str
) -> None:
    for use in (lambda: Reader(written, facts), lambda: Writer(written, manifest(facts=facts))):
        with pytest.raises(RunError, match=message) as caught:
            use()
        assert f"delete {written}, and the next run writes it again" in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [manifest(samples=51), Manifest(FACTS, (Layout.of("x", torch.zeros(1, 2), stored="float32"),), SAMPLES)],
)
def test_a_cache_begun_with_other_signals_or_samples_is_refused(written: Path, other: Manifest) -> None:
    with pytest.raises(RunError, match="has begun with other signals or samples: delete"):
        Writer(written, other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "manifest.json is no manifest of a teacher cache .*: delete"),
        ("[]", "is no manifest of a teacher cache"),
        ("{}", "is no manifest of a teacher cache .KeyError..schema"),
        ('{"schema": 2}', "manifest.json is written in schema 2, this version reads 1: delete"),
        ('{"schema": 1, "facts": {}, "signals": [{"evil": 1}], "samples": 1, "shards": []}', "is no manifest"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(RunError, match=message):
        Reader(tmp_path, FACTS)


def test_too_few_or_too_many_samples_are_noticed(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "few", manifest(samples=SAMPLES + 1))
    fill(writer, SAMPLES)
    with pytest.raises(RunError, match="got 50 samples of 51: did the data change while it was written"):
        writer.finish()
    writer = Writer(tmp_path / "many", manifest(samples=SAMPLES - 1))
    fill(writer, SAMPLES)
    with pytest.raises(RunError, match="got 50 samples of 49"):
        writer.finish()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s | {"logits": s["logits"][:, :5]},
            r"cannot keep what the teacher gives: `logits` has the shape \(5,\)",
        ),
        (lambda s: s | {"logits": s["logits"][:-1]}, "`logits`: it has 7 rows for a batch of 8 samples .* have 8"),
        (lambda s: s | {"frames": s["frames"][:-1]}, "`frames`: it has .* comes with `frames.lengths`"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    ids = torch.arange(8)
    with pytest.raises(RunError, match=message):
        Writer(tmp_path, manifest()).append(ids, torch.zeros_like(ids), change(said(ids)))
