"""Killed at any moment, the same command goes on, and nothing shows that it ever stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor
from workshop import STOP, Workshop, weights

WORDS = ("trainer.max_epochs=3", "trainer.accumulate_grad_batches=3", "data.batch_size=64", "data.labels=100")
"""16 batches an epoch in windows of three: 6 steps, the last of a single batch; 18 in all."""

NETS = (
    "models.teacher={use: convnet, width: 3}",  # BatchNorm: statistics must survive too
    "models.student={use: mlp, hidden: [4], dropout: 0.2}",  # and the state of the generators
)


def history(folder: Path) -> dict[str, list[list[str]]]:
    """The rows of every stage's ``metrics.csv``."""
    found = {}
    for file in sorted(folder.rglob("metrics.csv")):
        with file.open(newline="") as text:
            found[file.parent.name] = list(csv.reader(text))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run leaves."""
    workshop = Workshop(tmp_path_factory.mktemp("whole"))
    result = workshop.apart("fit", *command(workshop))
    assert result.code == 0, result.err
    return workshop.folders()[0]


def command(workshop: Workshop, often: bool = False) -> tuple[str | Path, ...]:
    """The words after ``fit``; ``often`` takes a checkpoint after each window, not only after each epoch."""
    plugin = workshop.write("stop.py", STOP)
    stop = f"callbacks={{stop: {{use: local.stop, often: {str(often).lower()}}}}}"
    return (*WORDS, *NETS, stop, "--plugin", plugin)


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    ("moment", "often"),
    [
        ("teach:step:3", False),  # in the first epoch: there is no checkpoint yet
        pytest.param("teach:step:9", False, marks=pytest.mark.slow),  # in the second: back to the end of the first
        ("teach:batch:8", True),  # a window after a checkpoint in the middle of an epoch
        ("teach:validation:12", False),  # best.ckpt may be newer than last.ckpt
        ("alone:end:18", False),  # trained, but neither scored nor written
        ("distil:step:7", False),  # in the last stage: those before it stay
        pytest.param("distil:batch:16", True, marks=pytest.mark.slow),
    ],
)
def test_killed_it_goes_on_to_the_same_weights(moment: str, often: bool, whole: Path, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "killed")
    words = command(workshop, often)
    killed = workshop.apart("fit", *words, STOP_AT=moment)
    assert killed.code == -signal.SIGKILL
    assert not list(workshop.runs.rglob("report.json"))

    resumed = workshop.apart("fit", *words)
    assert resumed.code == 0, resumed.err
    (folder,) = workshop.folders()
    assert f"resuming {folder}" in resumed.out
    assert resumed.last == f"report: {folder / 'report.md'}"
    same(weights(folder), weights(whole))
    assert history(folder) == history(whole)
    for stage in ("teach", "alone", "distil"):
        mine, theirs = (json.loads((run / stage / "stage.json").read_text()) for run in (folder, whole))
        for key in ("best", "last", "steps"):
            assert mine[key] == theirs[key], (stage, key)
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]  # nothing half written is left


def test_every_step_is_in_the_history_once(whole: Path) -> None:
    rows = history(whole)
    for stage, names in (("teach", ["ce"]), ("alone", ["ce"]), ("distil", ["ce", "kd"])):
        seen = Counter((int(step), name) for step, name, _ in rows[stage][1:])
        assert set(seen.values()) == {1}
        for name in names:
            assert [step for step, metric in sorted(seen) if metric == f"{stage}/train/{name}"] == list(range(1, 19))


@pytest.mark.parametrize("how", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_told_to_stop_it_says_how_to_go_on(how: str, whole: Path, tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "told")
    words = command(workshop)
    told = workshop.apart("fit", *words, STOP_AT="distil:batch:8", STOP_HOW=how)
    assert told.code == 130
    assert told.err.endswith("interrupted: the same command goes on where this one stopped\n")
    assert "Traceback" not in told.err
    resumed = workshop.apart("fit", *words)
    assert resumed.code == 0, resumed.err
    assert "stage `teach`: is finished" in resumed.out
    assert "stage `distil`: goes on after step 6" in resumed.out
    same(weights(workshop.folders()[0]), weights(whole))


def test_two_at_once_get_two_folders(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "twice")
    words = command(workshop)
    first = workshop.start("fit", *words, "--stage", "teach", STOP_AT="teach:batch:6", STOP_HOW="wait")
    waiting, deadline = workshop.path / "waiting", time.monotonic() + 60
    while not waiting.exists():
        assert time.monotonic() < deadline, workshop.read("err")
        time.sleep(0.02)
    assert workshop.kdcore("fit", *words, "--stage", "teach").code == 0
    folders = workshop.folders()
    assert len(folders) == 2
    assert [(folder / "teach" / "stage.json").exists() for folder in folders] == [False, True]
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    # the one that died is free again, newest first
    assert f"resuming {folders[1]}" in workshop.fit(*words, "--stage", "teach").out


def test_killed_before_it_was_scored_it_still_knows_how_the_last_epoch_did(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "scored")
    plugin = workshop.write("stop.py", STOP)
    # a rate that grows ruins what the first epochs learnt: the best weights are not the last
    worse = ("optimizer={use: adamw, lr: 0.05, schedule: {use: linear, start: 1, end: 40}}", "trainer.max_epochs=4")
    words = (*worse, "callbacks={stop: {use: local.stop}}", "--plugin", plugin, "--stage", "teach")
    assert workshop.apart("fit", *words, STOP_AT="teach:end:16").code == -signal.SIGKILL
    assert workshop.apart("fit", *words).code == 0
    workshop.fit(*words, "--fresh")
    resumed, whole = (json.loads((folder / "teach" / "stage.json").read_text()) for folder in workshop.folders())
    assert resumed["last"] == whole["last"] != whole["best"] == resumed["best"]
