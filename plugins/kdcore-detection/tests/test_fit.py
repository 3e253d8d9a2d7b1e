"""Whole runs, as small as can be: the embedded recipe, and data with bad boxes in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdcore.testing import Runner
from pictures import voc, voc_object, voc_sample

from kdcore_detection.data import digits

CHEAP = ("trainer.max_steps=2", "trainer.val_check_interval=1", "logger=null", "--no-probe")


def test_two_steps_of_the_embedded_recipe(runner: Runner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digits, "COUNTS", {"train": 8, "val": 4, "test": 6})
    small = ("data.labels=6", "data.batch_size=4", "stages.teach.trainer.max_steps=2")
    run = runner.fit("detection", *small, *CHEAP)
    report = run.report
    assert report["primary"] == {"name": "ap", "mode": "max"}
    assert report["split"] == "test"
    assert {name: model["role"] for name, model in report["models"].items()} == {
        "teacher": "teacher",
        "student": "student",
        "alone": "alone",
    }
    for model in report["models"].values():
        assert 0 <= model["metrics"]["ap"]["test"] <= model["metrics"]["ap50"]["test"] <= 1
        assert model["flops"] > 1e6
    assert report["models"]["student"]["parameters"] < report["models"]["teacher"]["parameters"] / 3
    # one seed has an answer: images are exchanged between the two nets
    assert report["comparisons"]["student"]["p"] is not None
    assert "randomisation test over 6 samples" in (run.folder / "report.md").read_text(encoding="utf-8")


RECIPE = """\
kdcore: 1
name: own
task: {use: detection.boxes}
data:
  use: detection.voc
  path: .
  size: [64, 64]
  batch_size: 2
  bad: skip
  transform:
    crop: {use: torchvision, name: RandomIoUCrop}
    size: {use: torchvision, name: Resize, options: {size: [64, 64]}}
models:
  teacher: {use: detection.fcos, backbone: timm/resnet10t, levels: [3, 4], width: 16, towers: 1, options: OPTIONS}
  student: {use: detection.fcos, backbone: timm/resnet10t, levels: [3, 4], width: 8, towers: 1, options: OPTIONS}
stages:
  teach: {train: teacher, losses: {boxes: {use: detection.fcos}}}
  distil: {train: student, teachers: [teacher]}
losses: {boxes: {use: detection.fcos}, kd: {use: detection.bckd}}
"""


def test_what_was_left_out_is_in_the_report_and_the_primary_metric_need_not_be_named(runner: Runner, tmp_path: Path):
    root = voc(tmp_path / "mine")
    voc_sample(root, "p000", [voc_object("dog", (9, 9, 9, 9))])  # whose picture is left without a box
    (root / "JPEGImages" / "p001.jpg").write_text("nothing")
    recipe = RECIPE.replace("OPTIONS", "{channels: [8, 8, 16, 16], stem_width: 8}")
    run = runner.fit(recipe, f"data.path={root}", *CHEAP)
    assert run.report["primary"]["name"] == "ap"
    text = (run.folder / "report.md").read_text(encoding="utf-8")
    notes = run.report["data_notes"]
    assert [note.partition(":")[0] for note in notes] == [
        "1 of 4 pictures of the split `train` have no box",
        "1 boxes of the split `train` were left out",
        "1 of 4 samples of the split `train` were left out",
    ]
    assert "p001.jpg: is no picture that can be read" in notes[2]
    for note in notes:
        assert note in text
        assert note in run.out
