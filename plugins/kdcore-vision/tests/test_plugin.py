from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from kdcore.plugins import Plugins
from kdcore.testing import check_plugin, registered

from kdcore_vision import plugin

OVER = {"vision.ofa": ["vision"]}
TINY = "models.teacher.options={channels: [4, 8, 16, 32], stem_width: 4}"
FASHION = ("data.validation=20", "data.labels=20", "data.batch_size=20", TINY)
FIT = {
    "vision": [TINY],
    "vision.ofa": [TINY],
    "vision.deit": [TINY],
    "vision.fashion": [*FASHION, "trainer={val_check_interval: 2, check_val_every_n_epoch: null}"],
}


def test_it_keeps_what_a_plugin_promises():
    check_plugin("vision", over=OVER)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", FIT)
def test_each_recipe_runs_two_steps(recipe: str, fashion: Path):
    check_plugin(
        "vision",
        over=OVER,
        fit={recipe: FIT[recipe]},
        environment={"FASHION_MNIST": str(fashion)},
        only=["fit"],
    )


def test_no_recipe_is_forgotten():
    assert set(FIT) == {name for name in Plugins().shipped_recipes() if name.partition(".")[0] == "vision"}


def test_everything_it_adds():
    kinds = ("task", "data", "model", "prepare", "loss", "exporter")
    assert {kind: sorted(registered("vision", kind)) for kind in kinds} == {
        "task": ["classify"],
        "data": ["csv", "fashion_mnist", "folders", "torchvision"],
        "model": ["timm"],
        "prepare": ["cutmix", "mixup"],
        "loss": ["deit", "ofa"],
        "exporter": ["onnx", "onnx_int8"],
    }


def test_task_and_data_tell_the_classes_names():
    for kind in (*registered("vision", "task").values(), *registered("vision", "data").values()):
        assert "class_names" in kind.fact_names


def test_a_complete_environment_has_no_problems():
    assert plugin.kdcore_check_environment() == []


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "PIL" else find(name, *a))
    (problem,) = plugin.kdcore_check_environment()
    assert (problem.message, problem.hint) == ("pillow is not installed", "pip install pillow")
