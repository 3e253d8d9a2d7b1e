"""Whole runs, as small as can be: the embedded recipe, and data with a bad file in it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from kdcore.cli import run

from kdcore_segmentation.data import digits

CHEAP = (
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.max_steps=2",
    "trainer.max_epochs=-1",
    "logger=null",
)


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `kdcore fit ...` in an empty folder, in this process; gives the run's folder and report."""
    monkeypatch.chdir(tmp_path)

    def fit(*words: str) -> tuple[Path, dict[str, Any]]:
        try:
            assert run(["fit", *words, *CHEAP]) == 0
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        (report,) = Path("runs").glob("*/*/report.json")
        return report.parent, json.loads(report.read_text(encoding="utf-8"))

    return fit


def test_two_steps_of_the_embedded_recipe(fit, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digits, "COUNTS", {"train": 8, "val": 4, "test": 4})
    quick = ("data.labels=6", "data.batch_size=4", "~stages.teach.trainer.max_epochs", "--no-probe")
    folder, report = fit("segmentation", *quick)
    assert report["primary"] == {"name": "miou", "mode": "max"}
    assert report["split"] == "test"
    assert {name: model["role"] for name, model in report["models"].items()} == {
        "teacher": "teacher",
        "student": "student",
        "alone": "alone",
    }
    for model in report["models"].values():
        assert 0 <= model["metrics"]["miou"]["test"] <= 1
        assert 0 <= model["metrics"]["pixel_accuracy"]["test"] <= 1
        assert model["flops"] > 1e6
    teacher, student = report["models"]["teacher"], report["models"]["student"]
    assert student["parameters"] < teacher["parameters"] / 3
    assert 0 <= student["metrics"]["agreement"]["test"] <= 1
    assert set(report["comparisons"]) == {"student"}
    assert (folder / "report.md").read_text(encoding="utf-8").count("miou") >= 2
    assert torch.cuda.is_available() or all(model["peak_memory_bytes"] is None for model in report["models"].values())


RECIPE = """\
kdcore: 1
name: own
task: {use: segmentation.semantic}
data: {use: segmentation.folders, path: ., classes: 3, size: [32, 32], batch_size: 4, bad: skip, validation: 0.3}
models:
  teacher:
    use: segmentation.smp
    encoder: tu-mobilenetv3_small_050
    options: {encoder_depth: 3, decoder_channels: [8, 8, 8]}
  student: {use: segmentation.smp, encoder: resnet18, options: {encoder_depth: 3, decoder_channels: [8, 8, 8]}}
stages:
  teach: {train: teacher, losses: {ce: {use: cross_entropy}}}
  distil: {train: student, teachers: [teacher]}
losses: {kd: {use: kl}}
"""


def test_what_was_left_out_is_in_the_report_and_the_primary_metric_need_not_be_named(
    fit, folders: Path, capsys: pytest.CaptureFixture[str]
):
    Path("own.yaml").write_text(RECIPE, encoding="utf-8")
    (folders / "images" / "3.png").write_text("nothing")
    folder, report = fit("own.yaml", "--no-probe")
    assert report["primary"]["name"] == "miou"
    (note,) = report["data_notes"]
    assert "were left out: " in note
    assert "3.png: is no image that can be read" in note
    assert note in (folder / "report.md").read_text(encoding="utf-8")
    assert note in capsys.readouterr().out
