from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from kdcore.plugins import Plugins
from kdcore.testing import check_plugin, registered

from kdcore_segmentation import plugin
from kdcore_segmentation.data import digits

OVERLAYS = ("pixelwise", "cwd", "skd", "ifvd", "cirkd", "mgd", "transkd", "kdsam", "camvid_small")
OVER = {f"segmentation.{name}": ["segmentation.camvid"] for name in OVERLAYS}

SMALL = ("data.size=[64, 64]", "data.batch_size=4", "data.transform.crop.options.size=[64, 64]")
NETS = "{use: segmentation.smp, arch: fpn, encoder: %s, options: {decoder_pyramid_channels: %d, %s}}"
TINY = (
    "models.teacher=" + NETS % ("resnet18", 64, "decoder_segmentation_channels: 64"),
    "models.student=" + NETS % ("tu-mobilenetv3_small_050", 32, "decoder_segmentation_channels: 32"),
)
FORMER = "options={hidden_sizes: [40, 40, 40, 40], depths: [1, 1, 1, 1], decoder_hidden_size: 40}"
OWN_NETS = {
    "segmentation.transkd": [f"models.{name}.{FORMER}" for name in ("teacher", "student")],
    "segmentation.collaboration": [f"models.{name}.{FORMER}" for name in ("transformer", "transformer_alone")],
    "segmentation.camvid_small": [],
}
FIT = {
    "segmentation": ["data.labels=6", "data.batch_size=4"],
    **{
        name: [*SMALL, *OWN_NETS.get(name, TINY)]
        for name in ("segmentation.camvid", "segmentation.collaboration", *OVER)
    },
}


def test_it_keeps_what_a_plugin_promises(camvid: Path):
    check_plugin("segmentation", over=OVER, environment={"KDCORE_DATA": str(camvid)})


@pytest.mark.slow
@pytest.mark.parametrize("recipe", FIT)
def test_each_recipe_runs_two_steps(recipe: str, camvid: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digits, "COUNTS", {"train": 8, "val": 4, "test": 4})
    check_plugin("segmentation", over=OVER, fit={recipe: FIT[recipe]}, only=["fit"])


def test_no_recipe_is_forgotten():
    assert set(FIT) == {name for name in Plugins().shipped_recipes() if name.partition(".")[0] == "segmentation"}


def test_everything_it_adds():
    kinds = ("task", "data", "model", "prepare", "metric", "loss")
    assert {kind: sorted(registered("segmentation", kind)) for kind in kinds} == {
        "task": ["semantic"],
        "data": ["camvid", "cityscapes", "digits", "folders"],
        "model": ["segformer", "smp"],
        "prepare": ["labelled"],
        "metric": ["iou", "miou", "pixel_accuracy"],
        "loss": [
            "cirkd", "cirkd_memory", "collaboration_pixel", "collaboration_region", "csf", "cwd", "ifvd", "pea",
            "perceptual", "skd",
        ],
    }  # fmt: skip


def test_task_and_data_tell_the_same_facts():
    tellers = (*registered("segmentation", "task").values(), *registered("segmentation", "data").values())
    assert {frozenset(kind.fact_names) for kind in tellers} == {
        frozenset({"classes", "channels", "image_height", "image_width"})
    }


def test_a_complete_environment_has_no_problems():
    assert plugin.kdcore_check_environment() == []


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "segmentation_models_pytorch" else find(name, *a)
    )
    (problem,) = plugin.kdcore_check_environment()
    assert problem.message == "segmentation-models-pytorch is not installed"
    assert problem.hint == "pip install segmentation-models-pytorch"
