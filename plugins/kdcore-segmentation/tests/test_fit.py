"""Whole runs, as small as can be: the embedded recipe, and data with a bad file in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kdcore.testing import Runner

from kdcore_segmentation.data import digits

CHEAP = ("trainer.max_steps=2", "trainer.val_check_interval=1", "logger=null", "--no-probe")


def test_two_steps_of_the_embedded_recipe(runner: Runner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digits, "COUNTS", {"train": 8, "val": 4, "test": 4})
    small = ("data.labels=6", "data.batch_size=4", "stages.teach.trainer.max_steps=2")
    run = runner.fit("segmentation", *small, *CHEAP)
    report = run.report
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
    assert (run.folder / "report.md").read_text(encoding="utf-8").count("miou") >= 2
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


def test_what_was_left_out_is_in_the_report_and_the_primary_metric_need_not_be_named(runner: Runner, folders: Path):
    (folders / "images" / "3.png").write_text("nothing")
    run = runner.fit(RECIPE, f"data.path={folders}", *CHEAP)
    assert run.report["primary"]["name"] == "miou"
    (note,) = run.report["data_notes"]
    assert "were left out: " in note
    assert "3.png: is no picture that can be read" in note
    assert note in (run.folder / "report.md").read_text(encoding="utf-8")
    assert note in run.out
