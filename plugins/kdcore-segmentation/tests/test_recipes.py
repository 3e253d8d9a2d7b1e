"""The recipes that the plugin ships: each is sound, and each loss in them teaches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kdcore.assemble import assemble
from kdcore.build import Builder
from kdcore.cli import run
from kdcore.plugins import Plugins
from kdcore.probe import check_losses
from kdcore.recipe.check import read
from pictures import Draw

import kdcore_segmentation

RECIPES = Path(kdcore_segmentation.__file__).parent / "recipes"
WHOLE = ("segmentation", "camvid", "collaboration")
SMALLER = "camvid_small"
OVERLAYS = ("pixelwise", "cwd", "skd", "ifvd", "cirkd", "mgd", "transkd", "kdsam")

SMALL = (
    "data.size=[64, 64]",
    "data.batch_size=4",
    "data.transform.crop.options.size=[64, 64]",
    "logger=null",
)
NETS = "{use: segmentation.smp, arch: fpn, encoder: %s, options: {decoder_pyramid_channels: %d, %s}}"
TINY = (
    "models.teacher=" + NETS % ("resnet18", 64, "decoder_segmentation_channels: 64"),
    "models.student=" + NETS % ("tu-mobilenetv3_small_050", 32, "decoder_segmentation_channels: 32"),
)
FORMER = "{hidden_sizes: [40, 40, 40, 40], depths: [1, 1, 1, 1], decoder_hidden_size: 40}"


@pytest.fixture
def camvid(tmp_path: Path, image: Draw, mask: Draw, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out as CamVid, with eight pictures of 64x64 to train on, as ``KDCORE_DATA``."""
    for split, count in (("train", 8), ("val", 2), ("test", 2)):
        for number in range(count):
            image(f"segmentation/camvid/{split}/{number}.png", 64, 64, blue=30 * number)
            blocks = np.kron(np.arange(64).reshape(8, 8) % (11 - number % 3), np.ones((8, 8)))
            mask(f"segmentation/camvid/{split}annot/{number}.png", values=blocks)
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path))
    return tmp_path


def files(*names: str) -> list[Path]:
    return [RECIPES / f"{name}.yaml" for name in names]


def test_every_recipe_is_tested_here():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*WHOLE, *OVERLAYS, SMALLER, "new"}


@pytest.mark.parametrize("name", WHOLE)
def test_kdcore_check_finds_nothing_wrong(name: str, camvid: Path, capsys: pytest.CaptureFixture[str]):
    # a recipe of the plugin's own name is called by it alone
    assert run(["check", "segmentation" if name == "segmentation" else f"segmentation.{name}"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("the recipe is sound")


@pytest.mark.parametrize("name", [*OVERLAYS, SMALLER])
def test_kdcore_check_finds_nothing_wrong_with_an_overlay(name: str, camvid: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["check", "segmentation.camvid", f"segmentation.{name}"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("the recipe is sound")


def test_checking_imports_no_torch(camvid: Path):
    code = (
        "import sys; from kdcore.cli import run; run(['check', 'segmentation.camvid', 'segmentation.cwd']); "
        "sys.exit(', '.join({'torch', 'transformers', 'segmentation_models_pytorch'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_changes_the_last_stage_alone(name: str, camvid: Path):
    plugins = Plugins()
    base, laid = (read(files(*names), (), plugins) for names in (("camvid",), ("camvid", name)))
    assert laid.name == base.name  # so that teacher and student alone are shared
    if name != "transkd":  # which has other nets
        assert laid.models == base.models
        assert (laid.stages["teach"], laid.stages["alone"]) == (base.stages["teach"], base.stages["alone"])
    assert laid.stages["distil"] != base.stages["distil"]


def probed(tmp_path: Path, paths: list[Path], overrides: tuple[str, ...], stage: str) -> list[str]:
    """What the check before the first step says of every loss of a stage, on one real batch."""
    plugins = Plugins()
    recipe = read(paths, overrides, plugins)
    builder = Builder(recipe, plugins, 0, tmp_path, lambda line: None)
    built = assemble(builder, recipe.stages[stage])
    data = builder.data(recipe.stages[stage].data)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape[2:] == batch["labels"].shape[1:] == (64, 64)
    warnings = check_losses(built.cast, built.losses, batch, built.distiller.prepared)
    assert len(built.losses) >= len(recipe.stages[stage].losses)
    return warnings


@pytest.mark.parametrize("name", ["camvid", *OVERLAYS])
def test_every_loss_teaches_the_student(name: str, camvid: Path, tmp_path: Path):
    torch.manual_seed(0)
    nets = [f"models.{model}.options={FORMER}" for model in ("teacher", "student")] if name == "transkd" else TINY
    assert probed(tmp_path, files(*dict.fromkeys(("camvid", name))), (*SMALL, *nets), "distil") == []


def test_two_students_teach_each_other(camvid: Path, tmp_path: Path):
    torch.manual_seed(0)
    overrides = (*SMALL, f"models.transformer.options={FORMER}")
    assert probed(tmp_path, files("collaboration"), overrides, "together") == []


def test_the_template_makes_a_sound_recipe(camvid: Path, capsys: pytest.CaptureFixture[str]):
    (camvid / "teacher.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    given = ["--teacher", str(camvid / "teacher.safetensors"), "--data", str(camvid)]
    assert run(["new-recipe", "segmentation.semantic", *given, "--to", str(camvid / "mine.yaml")]) == 0
    capsys.readouterr()
    assert run(["check", str(camvid / "mine.yaml")]) == 0, capsys.readouterr().err
    assert "sound" in capsys.readouterr().out


def test_the_template_without_a_teacher_says_what_to_do(camvid: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["new-recipe", "segmentation.semantic", "--data", str(camvid), "--to", str(camvid / "mine.yaml")]) == 0
    text = (camvid / "mine.yaml").read_text(encoding="utf-8")
    assert run(["check", str(camvid / "mine.yaml")]) == 2
    assert "the teacher `teacher` is untrained in stage `distil`" in capsys.readouterr().err
    (camvid / "mine.yaml").write_text(text.replace("  # teach:", "  teach:"), encoding="utf-8")
    assert run(["check", str(camvid / "mine.yaml")]) == 0
