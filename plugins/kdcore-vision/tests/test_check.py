from __future__ import annotations

from pathlib import Path

import pytest
from kdcore.errors import Problem
from kdcore.plugins import Plugins
from kdcore.recipe.check import read

from kdcore_vision.check import check_recipe

TEXT = """\
kdcore: 1
task: {use: %s}
data: %s
models: {net: {use: vision.timm, name: resnet18}}
stages:
  one: {train: net, losses: {ce: {use: cross_entropy%s}}%s}
trainer: {max_epochs: 1}
logger: null
"""
FOLDERS = "{use: vision.folders, path: pictures}"


def problems(
    folder: Path, task: str = "vision.classify", data: str = FOLDERS, loss: str = "", more: str = ""
) -> list[Problem]:
    path = folder / "recipe.yaml"
    path.write_text(TEXT % (task, data, loss, more))
    return check_recipe(read([path], (), Plugins()))


def test_a_good_recipe(tmp_path: Path):
    assert problems(tmp_path) == []
    assert problems(tmp_path, data="{use: digits}") == []
    assert problems(tmp_path, task="classify", data="{use: digits}") == []


@pytest.mark.parametrize("data", [FOLDERS, f"{{use: mix, labelled: {FOLDERS}, unlabelled: {FOLDERS}}}"])
def test_bytes_want_this_plugin_s_task(tmp_path: Path, data: str):
    (problem,) = problems(tmp_path, task="classify", data=data)
    use = "mix" if "mix" in data else "vision.folders"
    assert problem.message == f"is `classify`, and `{use}` gives pictures as bytes, which that task does not take"
    assert problem.hint == "write `task: {use: vision.classify}`"
    assert problem.path == "task.use"


def test_smoothing_labels_that_are_not_there(tmp_path: Path):
    few, smoothed = "{use: vision.folders, path: pictures, labels: 5}", ", label_smoothing: 0.1"
    mixed = ", prepare: {mix: {use: vision.cutmix}}"
    (problem,) = problems(tmp_path, data=few, loss=smoothed, more=mixed)
    assert problem.message == "smooths labels that `vision.cutmix` has mixed, also those of pictures that have none"
    assert problem.path == "stages.one.losses.ce.label_smoothing"
    assert problems(tmp_path, loss=smoothed, more=mixed) == []
    assert problems(tmp_path, data=few, more=mixed) == []
    assert problems(tmp_path, data=few, loss=smoothed) == []
