"""Each distiller bound by a recipe to real detectors: it teaches the student alone, with and without known boxes."""

from __future__ import annotations

import pytest
from kdcore.testing import Runner

MODEL = "{use: detection.KIND, backbone: timm/resnet18, levels: [3, 4, 5], width: WIDTH, towers: 2, options: OPTIONS}"
OPTIONS = "{channels: [8, 8, 16, 16], stem_width: 8, layers: [1, 1, 1, 1]}"
RECIPE = """
kdcore: 1
name: distillers
task: {use: detection.boxes}
data: {use: detection.digits, batch_size: 4, LABELS}
models:
  teacher: TEACHER
  student: STUDENT
stages:
  distil: {train: student, teachers: [teacher], losses: {kd: LOSS}, taps: TAPS, trainer: {max_steps: 2}}
logger: null
"""
PYRAMID = "{at: {student: backbone.fpn.layer_blocks.*, teacher: backbone.fpn.layer_blocks.*}}"
CLASS_TOWER = "{at: {student: head.classification_head.conv.2, teacher: head.classification_head.conv.2}}"
BOX_TOWER = "{at: {student: head.regression_head.conv.2, teacher: head.regression_head.conv.2}}"
PROJECTED = PYRAMID.replace("}}", ", project: conv1x1}}")
CASES = {
    "pkd": ("fcos", "{use: pkd, at: at}", PROJECTED),
    "mgd": ("fcos", "{use: mgd, at: at, ratio: 0.65}", PYRAMID),
    "fgd": ("fcos", "{use: detection.fgd, at: at}", PYRAMID),
    "acam": ("fcos", "{use: detection.acam, at: at}", PYRAMID),
    "sad": ("fcos", "{use: detection.sad, at: at}", PYRAMID),
    "sparsity": ("fcos", "{use: detection.sparsity, modules: backbone.**}", "{}"),
    "bckd": ("fcos", "{use: detection.bckd}", "{}"),
    "ld": ("gfl", "{use: detection.ld}", "{}"),
    "crosskd": ("fcos", "{use: detection.crosskd, at: at, layer: 1}", CLASS_TOWER),
    "crosskd_boxes": ("fcos", "{use: detection.crosskd_boxes, at: at, layer: 1}", BOX_TOWER),
    "crosskd_distribution": ("gfl", "{use: detection.crosskd_distribution, at: at, layer: 1}", BOX_TOWER),
}
FROM_BOXES_ALONE = {"ld", "crosskd_boxes", "crosskd_distribution"}


def recipe(name: str, labels: str = "labels: null") -> str:
    kind, loss, taps = CASES[name]
    student, teacher = (
        MODEL.replace("KIND", kind).replace("OPTIONS", OPTIONS).replace("WIDTH", width) for width in ("8", "16")
    )
    parts = {"LABELS": labels, "TEACHER": teacher, "STUDENT": student, "LOSS": loss, "TAPS": taps}
    text = RECIPE
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text


@pytest.mark.parametrize("name", CASES)
def test_it_teaches_the_student(name: str, runner: Runner):
    assert runner.probe(recipe(name)) == []


@pytest.mark.parametrize("name", CASES)
def test_what_it_does_where_no_box_is_known(name: str, runner: Runner):
    warnings = runner.probe(recipe(name, "labels: 0"))
    if name in FROM_BOXES_ALONE:
        assert warnings == ["loss `kd` selected nothing in the first batch: its value is 0 there"]
    else:
        assert warnings == []
