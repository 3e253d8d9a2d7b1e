"""The recipes that the plugin ships: what each changes, that each loss in them teaches, and the template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.testing import Runner
from pictures import coco_content, coco_file
from test_plugin import FIT, OVERLAYS, bccd

import kdcore_detection

__all__ = ["bccd"]

RECIPES = Path(kdcore_detection.__file__).parent / "recipes"


def files(*names: str) -> list[Path]:
    return [RECIPES / f"{name}.yaml" for name in names]


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_changes_the_last_stage_alone(name: str, bccd: Path):
    plugins = Plugins()
    base, laid = (read(files(*names), (), plugins) for names in (("bccd",), ("bccd", name)))
    assert laid.name == base.name  # so that teacher and student alone are shared
    assert laid.models == base.models
    assert (laid.stages["teach"], laid.stages["alone"]) == (base.stages["teach"], base.stages["alone"])
    if name != "bckd":  # which the base does itself
        assert laid.stages["distil"] != base.stages["distil"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_loss_teaches_the_student(name: str, bccd: Path, runner: Runner):
    torch.manual_seed(0)
    assert runner.probe(files("bccd", name), *FIT[f"detection.{name}"]) == []


def new_recipe(runner: Runner, folder: Path, *words: str) -> Path:
    """Of a folder with COCO's files where the template looks for them."""
    for split, count in (("train", 8), ("val", 2)):
        boxes = [{"image_id": 10 + k, "category_id": 3, "bbox": [5, 5, 20, 20]} for k in range(count)]
        content = coco_content(count, boxes)
        coco_file(folder / split / "unused.json", content)
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    made = folder / "mine.yaml"
    result = runner.kdcore("new-recipe", "detection.boxes", "--data", folder, "--to", made, *words)
    assert result.code == 0, result.err
    return made


def test_the_template_makes_a_sound_recipe(tmp_path: Path, runner: Runner):
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    assert "sound" in runner.check(new_recipe(runner, tmp_path, "--teacher", str(weights))).out


def test_the_template_without_a_teacher_says_what_to_do(tmp_path: Path, runner: Runner):
    made = new_recipe(runner, tmp_path)
    result = runner.kdcore("check", made)
    assert result.code == 2
    assert "the teacher `teacher` is untrained in stage `distil`" in result.err
    made.write_text(made.read_text(encoding="utf-8").replace("  # teach:", "  teach:"), encoding="utf-8")
    runner.check(made)
