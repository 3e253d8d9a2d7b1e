"""What `kdcore check` says about recipes for segmentation, word by word."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdcore.errors import Problem
from kdcore.plugins import Plugins
from kdcore.recipe.check import read

RECIPE = """\
kdcore: 1
name: checked
task: {use: segmentation.semantic}
data: {use: segmentation.folders, path: data, classes: 3, size: [64, 96]}
models:
  teacher: {use: segmentation.smp, arch: fpn, encoder: resnet34, weights: teacher.pt}
  student: {use: segmentation.smp, arch: fpn}
losses: {kd: {use: kl}, ce: {use: cross_entropy}}
trainer: {max_epochs: 1}
logger: null
"""


@pytest.fixture
def check(tmp_path: Path):
    """The problems of the recipe above with some overrides, as (path, message, hint)."""

    def problems(*overrides: str) -> list[tuple[str, str, str]]:
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE, encoding="utf-8")
        plugins = Plugins()
        recipe = read([path], overrides, plugins)
        found: list[Problem] = plugins.check_recipe(recipe)
        return [(problem.path, problem.message.removeprefix("segmentation: "), problem.hint) for problem in found]

    return problems


def only(problems: list[tuple[str, str, str]]) -> tuple[str, str]:
    """The path and what is said of the one problem there is."""
    ((path, message, hint),) = problems
    return path, f"{message} / {hint}"


def test_a_sound_recipe(check):
    assert check() == []


def test_an_image_that_is_no_multiple_of_the_stride(check):
    path, said = only(check("data.size=[60, 90]"))
    assert path == "data.size"
    assert "gives whole images of 60x90, and multiples of 32 are wanted by `alone` and `student` and `teacher`" in said
    assert said.endswith(" / write [64, 96], or use the architecture `unet`, which takes every size")


def test_unet_takes_every_size(check):
    found = check("data.size=[60, 90]", "models.student.arch=unet")
    assert "wanted by `teacher` / write" in only(found)[1]
    assert check("data.size=[60, 90]", "models.student.arch=unet", "models.teacher.arch=Unet") == []


def test_options_change_the_stride(check):
    options = [f"models.{name}.options={{encoder_depth: 3}}" for name in ("teacher", "student")]
    assert check("data.size=[24, 40]", *options) == []
    assert "multiples of 8 are wanted" in only(check("data.size=[20, 40]", *options))[1]


def test_a_crop_that_is_no_multiple_of_the_stride(check):
    crop = "data.transform={crop: {use: torchvision, name: RandomCrop, options: {size: [48, 64]}}}"
    path, said = only(check(crop, "models.teacher.arch=unet"))
    assert path == "data.transform.crop.options.size"
    assert "gives crops of 48x64, and multiples of 32 are wanted by `alone` and `student`" in said
    assert check(crop.replace("48", "32")) == []


def test_a_square_crop_may_be_one_number(check):
    crop = "data.transform={crop: {use: torchvision, name: RandomResizedCrop, options: {size: 50}}}"
    assert "crops of 50x50" in check(crop)[0][1]
    assert check(crop.replace("50", "32")) == []


def test_the_last_crop_decides(check):
    first = "a: {use: torchvision, name: RandomCrop, options: {size: [40, 40]}}"
    last = "b: {use: torchvision, name: RandomResizedCrop, options: {size: [32, 64]}}"
    assert check(f"data.transform={{{first}, {last}}}") == []


def test_other_transforms_change_no_size(check):
    flip = "flip: {use: torchvision, name: RandomHorizontalFlip}"
    shorter = "short: {use: torchvision, name: Resize, options: {size: 50}}"  # one side: the other is unknown
    assert check(f"data.transform={{{flip}, {shorter}}}") == []


def test_a_crop_of_one_stage(check):
    crop = "{use: torchvision, name: RandomCrop, options: {size: [48, 64]}}"
    stages = "stages={distil: {train: student, teachers: [teacher], data: {transform: {crop: " + crop + "}}}}"
    assert {path for path, _, _ in check(stages)} == {"stages.distil.data.transform.crop.options.size"}


def test_a_crop_larger_than_the_images(check):
    crop = "data.transform={crop: {use: torchvision, name: RandomCrop, options: {size: [96, 96]}}}"
    path, said = only(check(crop))
    assert path == "data.transform.crop.options.size"
    assert "is 96x96, larger than the images of 64x96 / set `pad_if_needed: true`, or a smaller size" in said
    assert check(crop.replace("[96, 96]", "[96, 96], pad_if_needed: true")) == []


def test_the_embedded_data_has_a_size_of_its_own(check):
    assert check("data={use: segmentation.digits}") == []
    assert "whole images of 48x48" in only(check("data={use: segmentation.digits, size: [48, 48]}"))[1]


@pytest.mark.parametrize(("data", "classes"), [("digits", 11), ("camvid", 11), ("cityscapes", 19)])
def test_data_that_knows_its_classes(check, data: str, classes: int):
    path = "" if data == "digits" else ", path: data"
    base = f"data={{use: segmentation.{data}{path}, size: [64, 64]}}"
    assert check(base, f"task.classes={classes}", f"models.student.classes={classes}") == []
    path, said = only(check(base, "task.classes=7"))
    assert path == "task.classes"
    assert f"is 7, but the data `segmentation.{data}` has {classes} / leave it out: it is filled in" in said
    assert {path for path, _, _ in check(base, "models.student.classes=4")} >= {"models.student.classes"}


def test_names_are_counted(check):
    names = "data.class_names=[a, b, c, d]"
    assert check(names, "~data.classes") == []
    assert "has 4" in only(check(names, "~data.classes", "task.classes=3"))[1]
    path, said = only(check(names))
    assert path == "data.classes"
    assert "is 3, but `class_names` has 4 / leave it out: the names are counted" in said


def test_folders_must_say_how_many_classes_there_are(check):
    path, said = only(check("~data.classes"))
    assert path == "data"
    assert "does not say how many classes there are / add `classes: ...` or `class_names: [...]`" in said


def test_an_ignored_value_that_is_a_class(check):
    path, said = only(check("data.ignore=[2, 255]"))
    assert path == "data.ignore"
    assert "ignore=[2, 255]: 2 is one of the classes 0 to 2" in said
    assert check("data.ignore=[3]") == []


def test_too_many_classes(check):
    path, said = only(check("data.classes=300"))
    assert path == "data.classes"
    assert "classes=300: give from 2 to 255" in said


def test_a_problem_of_several_stages_is_said_once(check):
    alone = "{train: student, losses: {ce: {use: cross_entropy}}}"
    stages = f"stages={{a: {alone}, b: {{train: student, teachers: [teacher]}}}}"
    assert len(check(stages, "data.size=[60, 96]", "models.teacher.arch=unet")) == 1


def test_other_models_are_not_judged(check):
    other = [f"models.{name}={{use: segmentation.segformer, weights: a.pt}}" for name in ("student", "teacher")]
    assert check("data.size=[60, 90]", *other) == []
