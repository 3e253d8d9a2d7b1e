"""W&B without a network: everything stays in the run folder, one run from start to end, and no secret in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from workshop import STOP, Workshop

pytestmark = pytest.mark.slow

LOGGED = "logger={use: wandb, project: test}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, and every address of W&B is this machine's closed port."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("WANDB_DIR", "WANDB_MODE", "WANDB_API_KEY", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return home


def outside(workshop: Workshop, home: Path) -> list[Path]:
    """What was written anywhere but in the run folders (matplotlib keeps a list of fonts)."""
    known = {"tiny.yaml", "stop.py", "out", "err"}
    return [path for path in home.rglob("*") if path.is_file() and "matplotlib" not in path.parts] + [
        path
        for path in workshop.path.rglob("*")
        if path.is_file() and workshop.runs not in path.parents and path.name not in known
    ]


def test_a_killed_run_goes_on_in_the_same_wandb_run(home: Path, workshop: Workshop) -> None:
    plugin = workshop.write("stop.py", STOP)
    words = (
        LOGGED, "optimizer.weight_decay=${oc.env:KDCORE_TEST_DECAY}", "callbacks={stop: {use: local.stop}}",
        "--plugin", plugin,
    )  # fmt: skip
    environment = {
        "HOME": str(home),
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "KDCORE_TEST_DECAY": "0.000123457",  # stands for a secret
    }
    killed = workshop.apart("fit", *words, STOP_AT="distil:batch:3", **environment)
    assert killed.code == -9, killed.err
    ids = workshop.record()["wandb"]
    resumed = workshop.apart("fit", *words, **environment)
    assert resumed.code == 0, resumed.err
    (folder,) = workshop.folders()
    assert workshop.record()["wandb"] == ids
    offline = sorted((folder / "wandb").glob("offline-run-*"))
    assert {path.name.rpartition("-")[2] for path in offline} == set(ids.values())
    assert outside(workshop, home) == []
    # artifacts: the student and the report, staged in the run's own files
    logged = b"".join(path.read_bytes() for path in offline[-1].rglob("*.wandb"))
    for name in (f"model-{ids['0']}", f"report-{ids['0']}", "student.safetensors", "report.json", "primary"):
        assert name.encode() in logged, name
    assert b"distil/val/accuracy" in logged
    assert b"${oc.env:KDCORE_TEST_DECAY}" in logged
    for path in (
        folder / "run.yaml",
        folder / "recipe.yaml",
        *offline[-1].rglob("*.yaml"),
        *offline[-1].rglob("*.wandb"),
    ):
        assert b"0.000123457" not in path.read_bytes(), path


def test_no_logger_no_wandb(home: Path, workshop: Workshop) -> None:
    workshop.fit("--stage", "teach")
    assert not list(workshop.runs.rglob("wandb"))
    assert outside(workshop, home) == []


def test_every_seed_is_a_run_of_its_own(home: Path, workshop: Workshop) -> None:
    result = workshop.apart(
        "fit", LOGGED, "--seeds", "2", "--no-probe", HOME=str(home), WANDB_BASE_URL="http://127.0.0.1:9"
    )
    assert result.code == 0, result.err
    ids = yaml.safe_load((workshop.folders()[0] / "run.yaml").read_text())["wandb"]
    names = [path.name.rpartition("-")[2] for path in (workshop.folders()[0] / "wandb").glob("offline-run-*")]
    assert sorted(names) == sorted(ids.values())
    assert len(set(names)) == 2
