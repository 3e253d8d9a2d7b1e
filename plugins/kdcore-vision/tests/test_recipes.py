"""The recipes that the plugin ships, whole: the small ones, and a stranger's checkpoint and pictures."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from kdcore.testing import Runner
from test_plugin import FASHION, OVER, TINY
from timm import create_model

SHORT = ["logger=null", "trainer={max_steps: 2}", "--no-probe"]


def test_two_steps_of_the_small_recipe(runner: Runner):
    report = runner.fit("vision", *SHORT, "stages.teach.trainer={max_steps: 12}", TINY).report
    assert report["comparisons"]["student"]["alone"] == "alone"
    assert set(report["models"]["student"]["metrics"]) == {"accuracy", "top3", "agreement", "ece"}


def test_two_steps_on_fashion_mnist(runner: Runner, fashion: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FASHION_MNIST", str(fashion))
    steps = "trainer={max_steps: 4, val_check_interval: 2, check_val_every_n_epoch: null}"
    report = runner.fit("vision.fashion", "logger=null", "--no-probe", steps, *FASHION).report
    assert report["models"]["alone"]["parameters"] == report["models"]["student"]["parameters"] < 21_000


@pytest.mark.parametrize("name", ["vision", "vision.deit", "vision.ofa"])
def test_every_loss_teaches_the_student(name: str, runner: Runner):
    assert runner.probe([*OVER.get(name, ()), name]) == []


@pytest.fixture
def stranger(tmp_path: Path, folders: Path) -> tuple[Path, Path]:
    """Her checkpoint, nested and prefixed, and her pictures."""
    torch.manual_seed(0)
    net = create_model("resnet10t", num_classes=2, channels=[4, 8, 16, 32], stem_width=4)
    state = {f"module.{name}": one for name, one in net.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "teacher.pth")
    return tmp_path / "teacher.pth", folders


HERS = [TINY, "models.teacher.name=resnet10t"]
SMALL = [
    "data.size=[32, 32]", "data.workers=0", "data.transform.crop.options.size=[32, 32]",
    "models.student.name=resnet10t", TINY.replace("teacher", "student"),
]  # fmt: skip


def new(runner: Runner, stranger: tuple[Path, Path], *, teacher: bool = True) -> Path:
    given = ["--teacher", stranger[0]] if teacher else []
    made = runner.folder / "mine.yaml"
    result = runner.kdcore("new-recipe", "vision.classify", *given, "--data", stranger[1], "--to", made)
    assert result.code == 0, result.err
    return made


def test_the_template_asks_for_the_net_s_name(runner: Runner, stranger: tuple[Path, Path]):
    made = new(runner, stranger)
    result = runner.kdcore("check", made)
    assert result.code == 2
    assert "models.teacher.name: is still to be given" in result.err
    runner.check(made, "models.teacher.name=resnet10t")


def test_a_checkpoint_that_names_its_net_needs_no_more(runner: Runner, stranger: tuple[Path, Path]):
    state = torch.load(stranger[0], weights_only=True)
    torch.save({**state, "args": Namespace(model="resnet10t", lr=0.1)}, stranger[0])
    made = new(runner, stranger)
    assert 'name: "resnet10t"' in made.read_text(encoding="utf-8")
    runner.check(made)


def test_the_template_without_a_teacher_says_what_to_do(runner: Runner, stranger: tuple[Path, Path]):
    made = new(runner, stranger, teacher=False)
    result = runner.kdcore("check", made, *HERS)
    assert result.code == 2
    assert "the teacher `teacher` is untrained in stage `distil`" in result.err
    made.write_text(made.read_text(encoding="utf-8").replace("  # teach:", "  teach:"), encoding="utf-8")
    runner.check(made, *HERS)


def test_a_stranger_s_checkpoint_and_pictures(runner: Runner, stranger: tuple[Path, Path]):
    made, words = new(runner, stranger), [*HERS, *SMALL, *SHORT]
    run = runner.fit(made, *words)
    assert "stripped `module.` from 92 of 92 names" in run.out
    assert run.report["comparisons"]["student"]["teacher"] == "teacher"
    out = runner.folder / "export"
    result = runner.kdcore("export", run.folder, "--runs", runner.runs, "--format", "vision.onnx", "--to", out)
    assert result.code == 0, result.err
    from kdcore_vision.exporters import open_session

    session = open_session(out / "student" / "model.onnx")
    _, names = session.run(None, {session.get_inputs()[0].name: torch.zeros(1, 3, 32, 32, dtype=torch.uint8).numpy()})
    assert names[0] in ("ant", "bee")
    assert json.loads((out / "student" / "student.json").read_text())["class_names"] == ["ant", "bee"]


def test_her_classes_in_another_order(runner: Runner, stranger: tuple[Path, Path]):
    words = [new(runner, stranger), *HERS, *SMALL, *SHORT, "models.teacher.class_names=[bee, ant]"]
    result = runner.kdcore("fit", *words, "--runs", runner.runs)
    assert result.code == 1
    assert "model `teacher`: its classes are in another order than the data's: its output 0 is `bee`" in result.err
    assert "class_names: [bee, ant]" in result.err


def test_a_checkpoint_of_another_architecture_is_named(runner: Runner, stranger: tuple[Path, Path]):
    words = [new(runner, stranger), *SMALL, *SHORT, "models.teacher.name=test_vit", "--no-alone", "--stage", "distil"]
    result = runner.kdcore("fit", *words, "--runs", runner.runs)
    assert result.code == 1
    assert "fit none of the model's" in result.err
