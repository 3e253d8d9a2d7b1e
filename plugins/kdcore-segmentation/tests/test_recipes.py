"""The recipes that the plugin ships: what each changes, and that each loss in them teaches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from kdcore.testing import Runner
from test_plugin import FIT, OVERLAYS

import kdcore_segmentation

RECIPES = Path(kdcore_segmentation.__file__).parent / "recipes"
DISTILLERS = [name for name in OVERLAYS if name != "camvid_small"]


def files(*names: str) -> list[Path]:
    return [RECIPES / f"{name}.yaml" for name in names]


@pytest.mark.parametrize("name", DISTILLERS)
def test_an_overlay_changes_the_last_stage_alone(name: str, camvid: Path):
    plugins = Plugins()
    base, laid = (read(files(*names), (), plugins) for names in (("camvid",), ("camvid", name)))
    assert laid.name == base.name  # so that teacher and student alone are shared
    if name != "transkd":  # which has other nets
        assert laid.models == base.models
        assert (laid.stages["teach"], laid.stages["alone"]) == (base.stages["teach"], base.stages["alone"])
    assert laid.stages["distil"] != base.stages["distil"]


@pytest.mark.parametrize("name", ["camvid", *DISTILLERS])
def test_every_loss_teaches_the_student(name: str, camvid: Path, runner: Runner):
    torch.manual_seed(0)
    recipe = files(*dict.fromkeys(("camvid", name)))
    assert runner.probe(recipe, *FIT[f"segmentation.{name}"]) == []


def test_two_students_teach_each_other(camvid: Path, runner: Runner):
    torch.manual_seed(0)
    assert runner.probe("segmentation.collaboration", *FIT["segmentation.collaboration"]) == []


def new_recipe(runner: Runner, camvid: Path, *words: str) -> Path:
    made = camvid / "mine.yaml"
    result = runner.kdcore("new-recipe", "segmentation.semantic", "--data", camvid, "--to", made, *words)
    assert result.code == 0, result.err
    return made


def test_the_template_makes_a_sound_recipe(camvid: Path, runner: Runner):
    weights = camvid / "teacher.safetensors"
    weights.write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    assert "sound" in runner.check(new_recipe(runner, camvid, "--teacher", str(weights))).out


def test_the_template_without_a_teacher_says_what_to_do(camvid: Path, runner: Runner):
    made = new_recipe(runner, camvid)
    result = runner.kdcore("check", made)
    assert result.code == 2
    assert "the teacher `teacher` is untrained in stage `distil`" in result.err
    made.write_text(made.read_text(encoding="utf-8").replace("  # teach:", "  teach:"), encoding="utf-8")
    runner.check(made)
