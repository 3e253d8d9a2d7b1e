"""The recipes that the plugin ships: each is sound, and each trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from kdcore.assemble import assemble
from kdcore.build import Builder
from kdcore.cli import run
from kdcore.plugins import Plugins
from kdcore.probe import check_losses
from kdcore.recipe.check import read
from timm import create_model

import kdcore_vision

RECIPES = Path(kdcore_vision.__file__).parent / "recipes"
WORDS = {
    "vision": ["vision"],
    "fashion": ["vision.fashion"],
    "deit": ["vision.deit"],
    "ofa": ["vision", "vision.ofa"],
}
TINY = "options={channels: [4, 8, 16, 32], stem_width: 4}"
SHORT = ["logger=null", "trainer={max_steps: 2}"]


def fit(tmp_path: Path, *words: str) -> dict[str, Any]:
    """The report of a run in this process."""
    assert run(["fit", *words, "--runs", str(tmp_path / "runs")]) == 0
    (report,) = (tmp_path / "runs").glob("*/*/report.json")
    return json.loads(report.read_text(encoding="utf-8"))


def test_every_recipe_is_tested_here():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*WORDS, "new"}


@pytest.mark.parametrize("name", sorted(WORDS))
def test_kdcore_check_finds_nothing_wrong(name: str, capsys: pytest.CaptureFixture[str]):
    assert run(["check", *WORDS[name]]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.rstrip().endswith("the recipe is sound")


def test_checking_imports_no_torch():
    code = (
        "import sys; from kdcore.cli import run; run(['check', 'vision', 'vision.ofa']); "
        "sys.exit(', '.join({'torch', 'timm', 'torchvision'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_two_steps_of_the_small_recipe(tmp_path: Path):
    report = fit(
        tmp_path, "vision", *SHORT, "stages.teach.trainer={max_steps: 12}", f"models.teacher.{TINY}", "--no-probe"
    )
    assert report["comparisons"]["student"]["alone"] == "alone"
    assert set(report["models"]["student"]["metrics"]) == {"accuracy", "top3", "agreement", "ece"}


def test_two_steps_on_fashion_mnist(tmp_path: Path, fashion: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FASHION_MNIST", str(fashion))
    small = ["data.validation=20", "data.labels=20", "data.batch_size=20"]
    steps = "trainer={max_steps: 4, val_check_interval: 2, check_val_every_n_epoch: null}"
    report = fit(tmp_path, "vision.fashion", "logger=null", steps, *small, f"models.teacher.{TINY}", "--no-probe")
    assert report["models"]["alone"]["parameters"] == report["models"]["student"]["parameters"] < 21_000


@pytest.mark.parametrize("name", ["vision", "deit", "ofa"])
def test_every_loss_teaches_the_student(name: str, tmp_path: Path):
    plugins = Plugins()
    files = [plugins.shipped_recipes()[word] for word in WORDS[name]]
    recipe = read(files, ["logger=null"], plugins)
    builder = Builder(recipe, plugins, 0, tmp_path, lambda line: None)
    built = assemble(builder, recipe.stages["distil"])
    batch = next(iter(builder.data(recipe.stages["distil"].data).train_dataloader()))
    assert check_losses(built.cast, built.distiller.losses.values(), batch) == []
    assert len(built.losses) == 2


@pytest.fixture
def stranger(tmp_path: Path, folders: Path) -> tuple[Path, Path]:
    """Her checkpoint, nested and prefixed, and her pictures."""
    torch.manual_seed(0)
    net = create_model("resnet10t", num_classes=2, channels=[4, 8, 16, 32], stem_width=4)
    state = {f"module.{name}": one for name, one in net.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "teacher.pth")
    return tmp_path / "teacher.pth", folders


HERS = [f"models.teacher.{TINY}", "models.teacher.name=resnet10t"]
SMALL = [
    "data.size=[32, 32]", "data.workers=0", "data.transform.crop.options.size=[32, 32]",
    "models.student.name=resnet10t", f"models.student.{TINY}",
]  # fmt: skip


def new(stranger: tuple[Path, Path], tmp_path: Path, *, teacher: bool = True) -> str:
    given = ["--teacher", str(stranger[0])] if teacher else []
    made = tmp_path / "mine.yaml"
    assert run(["new-recipe", "vision.classify", *given, "--data", str(stranger[1]), "--to", str(made)]) == 0
    return str(made)


def test_the_template_asks_for_the_net_s_name(
    stranger: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = new(stranger, tmp_path)
    assert run(["check", made]) == 2
    assert "models.teacher.name: is still to be given" in capsys.readouterr().err
    assert run(["check", made, "models.teacher.name=resnet10t"]) == 0


def test_a_checkpoint_that_names_its_net_needs_no_more(
    stranger: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    state = torch.load(stranger[0], weights_only=True)
    torch.save({**state, "args": Namespace(model="resnet10t", lr=0.1)}, stranger[0])
    made = new(stranger, tmp_path)
    assert "name: \"resnet10t\"" in Path(made).read_text(encoding="utf-8")
    assert run(["check", made]) == 0


def test_the_template_without_a_teacher_says_what_to_do(
    stranger: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = Path(new(stranger, tmp_path, teacher=False))
    assert run(["check", str(made), *HERS]) == 2
    assert "the teacher `teacher` is untrained in stage `distil`" in capsys.readouterr().err
    made.write_text(made.read_text(encoding="utf-8").replace("  # teach:", "  teach:"), encoding="utf-8")
    assert run(["check", str(made), *HERS]) == 0


def test_a_stranger_s_checkpoint_and_pictures(
    stranger: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [new(stranger, tmp_path), *HERS, *SMALL, *SHORT]
    report = fit(tmp_path, *words, "--no-probe")
    assert "stripped `module.` from 92 of 92 names" in capsys.readouterr().out
    assert report["comparisons"]["student"]["teacher"] == "teacher"
    out = tmp_path / "export"
    assert run(["export", *words, "--runs", str(tmp_path / "runs"), "--format", "vision.onnx", "--to", str(out)]) == 0
    from kdcore_vision.exporters import open_session

    session = open_session(out / "student" / "model.onnx")
    _, names = session.run(None, {session.get_inputs()[0].name: torch.zeros(1, 3, 32, 32, dtype=torch.uint8).numpy()})
    assert names[0] in ("ant", "bee")
    assert json.loads((out / "student" / "student.json").read_text())["class_names"] == ["ant", "bee"]


def test_her_classes_in_another_order(stranger: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [new(stranger, tmp_path), *HERS, *SMALL, *SHORT, "--runs", str(tmp_path / "runs")]
    assert run(["fit", *words, "models.teacher.class_names=[bee, ant]"]) == 1
    said = capsys.readouterr().err
    assert "model `teacher`: its classes are in another order than the data's: its output 0 is `bee`" in said
    assert "class_names: [bee, ant]" in said


def test_a_checkpoint_of_another_architecture_is_named(
    stranger: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [new(stranger, tmp_path), *SMALL, *SHORT, "--runs", str(tmp_path / "runs"), "--stage", "distil"]
    assert run(["fit", *words, "models.teacher.name=test_vit", "--no-alone"]) == 1
    assert "fit none of the model's" in capsys.readouterr().err
