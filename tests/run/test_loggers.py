from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from kdcore.run import loggers
from kdcore.run.loggers import log_artifacts, wandb


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, no W&B settings, and no way out: every address is this machine's closed port."""
    for key in [key for key in os.environ if key.startswith(("WANDB", "XDG"))]:
        monkeypatch.delenv(key)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    return home


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WandbLogger]]:
    found: list[WandbLogger] = []
    yield found
    for logger in found:
        logger.experiment.finish()


@pytest.mark.slow
def test_two_offline_runs_stay_in_the_run_folder(
    home: Path, tmp_path: Path, opened: list[WandbLogger], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    weights, page = folder / "student.safetensors", folder / "report.md"
    weights.write_bytes(b"weights")
    page.write_text("# report")
    opened += [wandb(folder, f"demo-seed-{seed}", f"abc{seed}", project="p", tags=["quick"]) for seed in range(2)]
    for seed, logger in enumerate(opened):
        logger.log_metrics({"distil/val/accuracy": 0.5 + seed}, step=3)
        log_artifacts(logger, {"student.safetensors": weights, "report.md": page})
    runs = [logger.experiment for logger in opened]
    assert [(run.id, run.name, run.project, run.tags) for run in runs] == [
        (f"abc{seed}", f"demo-seed-{seed}", "p", ("quick",)) for seed in range(2)
    ]
    assert [run.summary["distil/val/accuracy"] for run in runs] == [0.5, 1.5]
    while opened:
        opened.pop().experiment.finish()
    again = wandb(folder, "demo-seed-0", "abc0", project="p")  # a resumed run
    opened.append(again)
    assert again.version == "abc0"

    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"runs"}  # nothing in the home folder
    records = b"".join(path.read_bytes() for path in folder.glob("wandb/offline-run-*/run-abc0.wandb"))
    for name in (b"model-abc0", b"report-abc0", str(weights).encode()):  # the artifact points at the file itself
        assert name in records
    assert not list(folder.rglob("*staging*"))
    assert not any(key in os.environ for key in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"))
    shown = capfd.readouterr()
    assert "login" not in shown.out + shown.err
    assert "wandb:" not in shown.out + shown.err


def test_files_are_sorted_into_a_model_and_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Run:
        def __init__(self) -> None:
            self.logged: list[tuple[str, str, list[str]]] = []

        def log_artifact(self, artifact: object) -> None:
            entries = sorted(artifact.manifest.entries)  # type: ignore[attr-defined]
            self.logged.append((artifact.name, artifact.type, entries))  # type: ignore[attr-defined]

    run = Run()
    monkeypatch.setattr(WandbLogger, "experiment", run)
    files = {}
    for name in ("student.safetensors", "net.onnx", "report.md", "report.json"):
        files[name] = tmp_path / name
        files[name].write_text(name)
    log_artifacts(WandbLogger(save_dir=tmp_path, id="xyz", offline=True), files)
    assert run.logged == [
        ("model-xyz", "model", ["net.onnx", "student.safetensors"]),
        ("report-xyz", "report", ["report.json", "report.md"]),
    ]


def test_other_loggers_are_left_alone(tmp_path: Path) -> None:
    log_artifacts(CSVLogger(tmp_path / "csv"), {"report.md": tmp_path / "missing.md"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_settings_reach_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(WandbLogger, "experiment", None)  # nothing is opened
    made = wandb(tmp_path, "name", "id7", project="p", mode=mode, entity="team", tags=["a"])  # type: ignore[arg-type]
    given = made._wandb_init
    wanted = {"name": "name", "id": "id7", "project": "p", "mode": mode, "entity": "team", "tags": ["a"]}
    assert {key: given[key] for key in wanted} == wanted
    assert Path(given["dir"]) == tmp_path
    assert given["resume"] == "allow"
    assert given["settings"].silent is (mode == "offline")


def test_a_place_the_user_chose_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_CACHE_DIR", "/elsewhere")
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    with loggers._inside(tmp_path):
        assert os.environ["WANDB_CACHE_DIR"] == "/elsewhere"
        assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb" / "data")
    assert os.environ["WANDB_CACHE_DIR"] == "/elsewhere"
    assert "WANDB_DATA_DIR" not in os.environ


def test_what_a_recipe_may_set_is_by_keyword() -> None:
    kinds = {name: parameter.kind for name, parameter in inspect.signature(wandb).parameters.items()}
    keyword = {name for name, kind in kinds.items() if kind is inspect.Parameter.KEYWORD_ONLY}
    assert keyword == {"project", "mode", "entity", "tags"}
