from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from kdcore.plugins import Plugins
from kdcore.testing import check_plugin, registered
from pictures import voc, voc_object, voc_sample

from kdcore_detection import plugin
from kdcore_detection.data import digits

OVERLAYS = ("acam", "bckd", "crosskd", "fgd", "ld", "mgd", "pkd", "sad")
OVER = {f"detection.{name}": ["detection.bccd"] for name in (*OVERLAYS, "bccd_detr")}

SMALL = ("data.size=[64, 64]", "data.batch_size=2")
FIT = {
    "detection": ["data.labels=6", "data.batch_size=4"],
    "detection.bccd": list(SMALL),
    **{name: list(SMALL) for name in OVER},
    "detection.lpld": list(SMALL),
}


@pytest.fixture
def bccd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out as BCCD, of a few pictures with three classes, where all recipes look for data."""
    root = voc(tmp_path / "detection" / "bccd" / "BCCD", train=4, val=2, test=2)
    for number in range(8):
        cells = [("Platelets", (3, 3, 9, 10)), ("RBC", (12, 6, 40, 34)), ("WBC", (20, 2, 58, 38))]
        objects = [voc_object(name, corners) for name, corners in cells]
        voc_sample(root, f"p{number:03d}", objects)
    monkeypatch.setenv("KDCORE_DATA", str(tmp_path))
    for name in ("KDCORE_SOURCE", "KDCORE_TARGET"):
        monkeypatch.setenv(name, str(root))
    return tmp_path


def test_it_keeps_what_a_plugin_promises(bccd: Path):
    check_plugin("detection", over=OVER)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", FIT)
def test_each_recipe_runs_two_steps(recipe: str, bccd: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digits, "COUNTS", {"train": 8, "val": 4, "test": 4})
    check_plugin("detection", over=OVER, fit={recipe: FIT[recipe]}, only=["fit"])


def test_no_recipe_is_forgotten():
    assert set(FIT) == {name for name in Plugins().shipped_recipes() if name.partition(".")[0] == "detection"}


def test_everything_it_adds():
    kinds = ("task", "data", "model", "metric", "loss")
    assert {kind: sorted(registered("detection", kind)) for kind in kinds} == {
        "task": ["boxes"],
        "data": ["coco", "digits", "pictures", "voc", "yolo"],
        "model": ["d_fine", "detr", "faster_rcnn", "fcos", "gfl", "retinanet", "rt_detr"],
        "metric": ["ap"],
        "loss": [
            "acam", "bckd", "crosskd", "crosskd_boxes", "crosskd_distribution", "detr_features", "detr_logits",
            "detr_queries", "faster_rcnn", "fcos", "fgd", "gfl", "ld", "lpld", "retinanet", "sad", "set", "sparsity",
        ],
    }  # fmt: skip


def test_task_and_data_tell_the_same_facts():
    data = registered("detection", "data")
    told = frozenset(data.pop("pictures").fact_names)  # nobody has said what they show
    tellers = (*registered("detection", "task").values(), *data.values())
    assert {frozenset(kind.fact_names) for kind in tellers} == {told | {"classes"}}


def test_a_complete_environment_has_no_problems():
    assert plugin.kdcore_check_environment() == []


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "faster_coco_eval" else find(name, *a)
    )
    (problem,) = plugin.kdcore_check_environment()
    assert problem.message == "faster-coco-eval is not installed"
    assert problem.hint == "pip install faster-coco-eval"
