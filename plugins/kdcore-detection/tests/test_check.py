"""What `kdcore check` says about recipes for detection, word by word."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdcore.errors import Problem
from kdcore.plugins import Plugins
from kdcore.recipe.check import read
from pictures import coco_content, coco_file, voc, write

RECIPE = """\
kdcore: 1
name: checked
task: {use: detection.boxes}
data: {use: detection.digits, size: [64, 96]}
models:
  teacher: {use: detection.gfl, levels: [3, 4, 5], weights: teacher.pt}
  student: {use: detection.gfl, levels: [3, 4, 5], backbone: timm/resnet10t}
losses: {boxes: {use: detection.gfl}, kd: {use: detection.bckd}}
trainer: {max_epochs: 1}
logger: null
"""

Said = list[tuple[str, str, str]]


@pytest.fixture
def check(tmp_path: Path):
    """The problems of the recipe above with some overrides, as (path, message, hint)."""

    def problems(*overrides: str) -> Said:
        path = write(tmp_path / "recipe.yaml", RECIPE)
        plugins = Plugins()
        recipe = read([path], overrides, plugins)
        found: list[Problem] = plugins.check_recipe(recipe)
        return [(problem.path, problem.message.removeprefix("detection: "), problem.hint) for problem in found]

    return problems


def only(problems: Said) -> tuple[str, str]:
    """The path and what is said of the one problem there is."""
    ((path, message, hint),) = problems
    return path, f"{message} / {hint}"


def test_a_sound_recipe(check):
    assert check() == []


# ---- losses of another family


@pytest.mark.parametrize(
    ("loss", "model"),
    [
        ("detection.set", "detection.gfl"),
        ("detection.gfl", "detection.fcos"),
        ("detection.gfl", "detection.rt_detr"),
        ("detection.faster_rcnn", "detection.retinanet"),
    ],
)
def test_a_loss_reads_what_its_own_net_gives(check, loss: str, model: str):
    found = check(f"models.student={{use: {model}}}", f"losses={{boxes: {{use: {loss}}}}}", "~losses.kd")
    fitting = "detection.set" if model == "detection.rt_detr" else model
    (said,) = [problem for problem in found if problem[0] == "losses.boxes"]
    assert f"`{loss}` reads signals of" in said[1]
    assert said[1].endswith(f", and the student is a `{model}`")
    assert said[2] == f"write `use: {fitting}`"


@pytest.mark.parametrize("model", ["detr", "rt_detr", "d_fine"])
def test_all_sets_share_a_loss(check, model: str):
    nets = [f"models.{name}={{use: detection.{model}, weights: a.pt}}" for name in ("student", "teacher")]
    assert check(*nets, "losses={boxes: {use: detection.set}, kd: {use: detection.detr_logits}}") == []


def test_a_distiller_of_one_family(check):
    found = check("models.teacher={use: detection.rt_detr, weights: a.pt}")
    path, said = only(found)
    assert path == "losses.kd"
    assert said == (
        "`detection.bckd` reads signals of `detection.fcos` or `detection.retinanet` or `detection.gfl`, and the "
        "teacher is a `detection.rt_detr` / "
    )


def test_localization_distillation_wants_distributions(check):
    fcos = "models.teacher={use: detection.fcos, levels: [3, 4, 5], weights: a.pt}"
    assert "reads signals of `detection.gfl`, and the teacher" in only(check(fcos, "losses.kd.use=detection.ld"))[1]
    assert check(fcos) == []  # other dense detectors may teach through bckd


def two(student: str, teacher: str) -> list[str]:
    nets = {"student": student, "teacher": teacher}
    return [f"models.{role}={{use: detection.{name}, weights: a.pt}}" for role, name in nets.items()]


def taught(loss: str) -> str:
    return f"losses={{boxes: {{use: detection.set}}, kd: {{use: detection.{loss}}}}}"


@pytest.mark.parametrize("model", ["rt_detr", "d_fine"])
def test_queries_are_handed_over_by_detr_only(check, model: str):
    assert check(*two("detr", "detr"), taught("detr_queries")) == []
    for role, nets in (("student", (model, "detr")), ("teacher", ("detr", model))):
        path, said = only(check(*two(*nets), taught("detr_queries")))
        assert path == "losses.kd"
        assert said == (
            f"`detection.detr_queries` reads signals of `detection.detr`, and the {role} is a `detection.{model}` / "
        )


def test_logits_are_compared_like_with_like(check):
    assert check(*two("rt_detr", "d_fine"), taught("detr_logits")) == []
    path, said = only(check(*two("detr", "rt_detr"), taught("detr_logits")))
    assert path == "losses.kd"
    assert said == (
        "`detection.detr_logits` compares like with like, and the logits of `student` are a softmax with no-object, "
        "those of `teacher` sigmoids / take two nets alike: `detection.detr` twice, or neither"
    )
    assert "of `student` are sigmoids, those of `teacher` a softmax" in only(
        check(*two("d_fine", "detr"), taught("detr_logits"))
    )[1]  # fmt: skip


def test_features_of_nets_that_give_no_memory_are_bound(check):
    assert check(*two("detr", "detr"), taught("detr_features")) == []
    path, said = only(check(*two("rt_detr", "detr"), taught("detr_features")))
    assert path == "losses.kd"
    assert said == (
        "`detection.detr_features` reads `memory` of `detection.detr`, and the student is a `detection.rt_detr` / "
        "bind a map of both nets with `at:`"
    )
    assert [hint for _, _, hint in check(*two("rt_detr", "d_fine"), taught("detr_features"))] == [
        "bind a map of both nets with `at:`"
    ] * 2
    taps = "taps={m: {student: model.encoder, teacher: model.encoder}}"
    assert check(*two("rt_detr", "d_fine"), taught("detr_features"), taps, "losses.kd.at=m") == []
    read = "losses.kd.read={student.memory: student.tap.m}"
    assert check(*two("rt_detr", "detr"), taught("detr_features"), taps, read) == []
    assert "reads signals of `detection.detr` or" in only(
        check(*two("rt_detr", "gfl"), taught("detr_features"), taps, "losses.kd.at=m")
    )[1]  # fmt: skip


def test_lpld_wants_two_stages_in_both(check):
    lpld = ["losses={boxes: {use: detection.faster_rcnn}, lpld: {use: detection.lpld}}", "~losses.kd"]
    assert check(*two("faster_rcnn", "faster_rcnn"), *lpld) == []
    path, said = only(check(*two("faster_rcnn", "retinanet"), *lpld))
    assert path == "losses.lpld"
    assert said == (
        "`detection.lpld` reads signals of `detection.faster_rcnn`, and the teacher is a `detection.retinanet` / "
    )


def test_composite_teachers_are_not_judged(check):
    models = "models.mean={use: ema, of: student}"
    stages = "stages={distil: {train: student, teachers: [mean]}}"
    assert check(models, stages) == []


def test_different_strides_in_teacher_and_student(check):
    path, said = only(check("models.student.levels=[3, 4]"))
    assert path == "losses.kd"
    assert said == (
        "`detection.bckd` compares the two nets position by position, and `student` has the levels [3, 4], `teacher` "
        "[3, 4, 5] / give both nets the same `levels`"
    )
    taps = "taps={m: {student: backbone.fpn, teacher: backbone.fpn}}"
    assert check("models.student.levels=[3, 4]", "losses.kd={use: detection.fgd, at: m}", taps) == []


def test_levels_that_are_not_given_are_five(check):
    found = check("~models.student.levels")
    assert "`student` has the levels [3, 4, 5, 6, 7], `teacher` [3, 4, 5]" in only(found)[1]


def test_cross_entropy_has_no_labels(check):
    _, said = only(check("losses={ce: {use: cross_entropy}}"))
    assert said == "`cross_entropy` reads `labels`, and boxes have none / write `use: detection.gfl`"


def test_a_softmax_over_classes_of_their_own_is_warned_of(check):
    _, said = only(check("losses.kd.use=kl"))
    assert said == (
        "`kl` compares classes among each other, and `detection.gfl` tells of each class by itself whether it is "
        "there / `detection.bckd` compares them so"
    )
    assert check("losses.kd={use: kl, signal: distribution}") == []  # which is a softmax


# ---- classes


def test_classes_that_are_not_the_datas(check):
    found = check("models.student.classes=4")
    assert {path for path, _, _ in found} == {"models.student.classes", "models.alone.classes"}
    assert {message for _, message, _ in found} == {"is 4, but the data `detection.digits` has 10"}
    assert {hint for _, _, hint in found} == {"leave it out: it is filled in"}
    assert check("models.student.classes=10", "task.classes=10") == []
    assert only(check("task.classes=11"))[0] == "task.classes"


def test_named_classes_are_counted(check, tmp_path: Path):
    data = f"data={{use: detection.voc, path: {voc(tmp_path)}, size: [64, 64], class_names: [cat, dog]}}"
    assert check(data, "task.classes=2") == []
    assert "is 3, but the data `detection.voc` has 2" in only(check(data, "task.classes=3"))[1]


# ---- sizes


def test_pictures_that_are_no_multiple_of_the_stride(check):
    path, said = only(check("data.size=[64, 90]"))
    assert path == "data.size"
    assert "is 64x90, and multiples of 32 are wanted by" in said
    assert said.endswith(" / write [64, 96]")
    levels = [f"models.{name}.levels=[2, 3]" for name in ("student", "teacher")]
    assert check("data.size=[64, 88]", *levels) == []


def test_crops_that_are_no_multiple(check):
    crop = "data.transform={c: {use: torchvision, name: RandomCrop, options: {size: [48, 64], pad_if_needed: true}}}"
    path, said = only(check(crop))
    assert path == "data.transform.c.options.size"
    assert said.startswith("is 48x64, and multiples of 32 are wanted by")
    assert check(crop.replace("48", "32")) == []


def test_the_digits_have_a_size_of_their_own(check):
    assert check("data={use: detection.digits}") == []


@pytest.mark.parametrize("name", ["RandomIoUCrop", "ScaleJitter", "RandomZoomOut"])
def test_pictures_of_different_sizes(check, name: str):
    varying = f"a: {{use: torchvision, name: {name}, options: {{}}}}"
    path, said = only(check(f"data.transform={{{varying}}}"))
    assert path == "data.transform.a"
    assert said == (
        f"leaves pictures of different sizes after `{name}`, which no batch takes / let a RandomCrop with "
        "`pad_if_needed: true`, or a Resize to [H, W], follow"
    )
    shorter = "b: {use: torchvision, name: Resize, options: {size: 64}}"
    assert len(check(f"data.transform={{{varying}, {shorter}}}")) == 1
    fixed = "b: {use: torchvision, name: Resize, options: {size: [64, 96]}}"
    assert check(f"data.transform={{{varying}, {fixed}}}") == []
    assert len(check(f"data.transform={{{fixed}, {varying}}}")) == 1


def test_views_are_judged_too(check):
    view = "data.views={strong: {a: {use: torchvision, name: RandomIoUCrop}}}"
    assert "different sizes" in only(check(view, "losses.kd.student=student@strong"))[1]


def test_a_transform_that_tears_boxes_from_labels(check):
    path, said = only(check("data.transform={a: {use: torchvision, name: SanitizeBoundingBoxes}}"))
    assert path == "data.transform.a"
    assert said == "drops boxes without their labels / leave it out: emptied boxes are dropped anyway"


# ---- files


def test_a_folder_that_is_not_there(check, tmp_path: Path):
    path, said = only(check(f"data={{use: detection.voc, path: {tmp_path}/nowhere, size: [64, 64]}}"))
    assert path == "data.path"
    assert said == (
        f"{tmp_path}/nowhere lacks ImageSets/Main/train.txt, because there is no such folder / give the path of your "
        "data"
    )


def test_a_file_that_is_not_there(check, tmp_path: Path):
    path, said = only(check(f"data={{use: detection.yolo, path: {tmp_path}/nowhere.yaml, size: [64, 64]}}"))
    assert path == "data.path"
    assert said == f"{tmp_path}/nowhere.yaml: there is no such file or folder / give the path of your data"


def test_files_of_each_format(check, tmp_path: Path):
    base = "size: [64, 64]"
    assert check(f"data={{use: detection.voc, path: {voc(tmp_path / 'v')}, {base}}}") == []
    given = f"data={{use: detection.voc, path: {tmp_path}/v, {base}, lists: {{train: dogs}}}}"
    assert "lacks ImageSets/Main/dogs.txt / " in only(check(given))[1]
    write(tmp_path / "y" / "data.yaml", "names: [a]")
    assert check(f"data={{use: detection.yolo, path: {tmp_path}/y, {base}}}") == []
    assert check(f"data={{use: detection.yolo, path: {tmp_path}/y/data.yaml, {base}}}") == []
    assert "lacks" in only(check(f"data={{use: detection.yolo, path: {tmp_path}/v, {base}}}"))[1]
    coco_file(tmp_path / "c" / "a.json", coco_content(1))
    given = f"data={{use: detection.coco, path: {tmp_path}/c, {base}, annotations: {{train: a.json}}}}"
    assert check(given) == []
    assert "lacks b.json / " in only(check(given.replace("a.json", "b.json")))[1]
    halves = (
        f"labelled: {{use: detection.yolo, path: {tmp_path}/y, {base}}}, unlabelled: {{use: detection.pictures, %s}}"
    )
    assert check(f"data={{use: mix, {halves % f'path: {tmp_path}/v, {base}'}}}") == []
    lost = only(check(f"data={{use: mix, {halves % f'path: {tmp_path}/lost, {base}'}}}"))
    assert f"{tmp_path}/lost: there is no such file or folder" in lost[1]
    (tmp_path / "c" / "b.json").mkdir()
    assert "lacks b.json / " in only(check(given.replace("a.json", "b.json")))[1]
    default = f"data={{use: detection.coco, path: {tmp_path}/c, {base}}}"
    assert "lacks annotations/instances_train2017.json" in only(check(default))[1]


def test_data_that_is_mixed(check):
    data = "{use: detection.%s, path: nowhere, size: [64, 64]}"
    mixed = f"data={{use: mix, labelled: {data % 'voc'}, unlabelled: {data % 'yolo'}}}"
    assert {path for path, _, _ in check(mixed)} == {"data.labelled.path", "data.unlabelled.path"}


def test_recipes_of_other_tasks_are_left_alone(check):
    assert check("task={use: classify}", "data={use: digits}", "losses={ce: {use: cross_entropy}}") == []
