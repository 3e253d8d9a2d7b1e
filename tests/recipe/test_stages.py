"""Stages: complete in themselves, in order, and taught by models that know something."""

from __future__ import annotations

import pytest

from kdcore.recipe.context import RESERVED
from kdcore.recipe.schema import DataSlot, Optimizer, Slot

from .conftest import BASE, Judge

THREE = (
    BASE.replace(", weights: teacher.pt", "")
    + """\
optimizer: {use: adamw, lr: 0.1, schedule: {use: cosine, warmup: 0.1}}
trainer: {max_epochs: 20, precision: 32}
callbacks: {gpu: {use: gpu}}
prepare: {adv: {use: attack, radius: 0.1}}
stages:
  teach:
    train: teacher
    losses: {ce: {use: cross_entropy}}
    metrics: {top5: {use: accuracy, top: 5}}
    callbacks: {}
    prepare: {}
    data: {batch_size: 3}
    optimizer: {lr: 0.2}
    trainer: {max_epochs: 8}
    keep: last
    once: true
  mark: {do: {use: table, out: t.csv}, data: {labels: 5}}
  distil: {train: student, teachers: [teacher]}
"""
)


def test_a_stage_replaces_some_sections_and_is_merged_into_others(judge: Judge) -> None:
    stages = judge(THREE).recipe.stages
    teach, distil = stages["teach"], stages["distil"]
    assert list(stages) == ["teach", "mark", "distil"]
    assert (list(teach.losses), list(teach.metrics), teach.callbacks, teach.prepare) == (["ce"], ["top5"], {}, {})
    assert teach.losses["ce"].path == "stages.teach.losses.ce"
    assert teach.data == DataSlot("stages.teach.data", "arrays", {"batch_size": 3})
    assert teach.task == Slot("task", "classify", {"classes": 10})
    assert teach.optimizer == Optimizer(
        "stages.teach.optimizer",
        "adamw",
        {"lr": 0.2},
        schedule=Slot("stages.teach.optimizer.schedule", "cosine", {"warmup": 0.1}),
    )
    assert teach.trainer == {"max_epochs": 8, "precision": 32}
    assert (teach.keep, teach.once) == ("last", True)
    assert list(distil.callbacks) == ["gpu"]
    assert distil.prepare["adv"].args == {"radius": 0.1}
    assert (distil.trainer["max_epochs"], distil.keep, distil.once) == (20, "best", False)
    assert distil.optimizer.path == "optimizer"


def test_a_stage_may_do_something_instead(judge: Judge) -> None:
    mark = judge(THREE).recipe.stages["mark"]
    assert mark.do == Slot("stages.mark.do", "table", {"out": "t.csv"})
    assert mark.data.args == {"labels": 5}
    assert (mark.train, mark.losses) == ((), {})


def test_a_stage_that_changes_the_optimizer_keeps_its_schedule_and_says_what_it_drops(judge: Judge) -> None:
    checked = judge(THREE, "stages.distil.optimizer={use: sgd, lr: 1}", "optimizer.weight_decay=0.5")
    optimizer = checked.recipe.stages["distil"].optimizer
    assert (optimizer.use, optimizer.args) == ("sgd", {"lr": 1.0})
    assert optimizer.schedule is not None
    assert checked.recipe.warnings == tuple(checked.problems)
    assert len(checked.lines) == 1
    assert checked.lines[0].endswith(
        "stages.distil.optimizer.use: changes from `adamw` to `sgd`, which drops `weight_decay`"
    )


def test_without_stages_the_student_alone_comes_first(judge: Judge) -> None:
    recipe = judge(BASE).recipe
    alone, distil = recipe.stages.values()
    assert (alone.train, alone.teachers) == (("alone",), ())
    assert (distil.train, distil.teachers) == (("student",), ("teacher",))
    assert recipe.models["alone"].args == recipe.models["student"].args
    assert recipe.models["alone"].path == "models.alone"
    assert alone.optimizer == Optimizer("optimizer", "adamw")


def test_an_own_model_alone_is_kept(judge: Judge) -> None:
    assert judge(BASE, "models.alone={use: net, width: 3}").recipe.models["alone"].args == {"width": 3}


def test_the_student_alone_may_be_skipped(judge: Judge) -> None:
    recipe = judge(BASE, alone=False).recipe
    assert (list(recipe.stages), "alone" in recipe.models) == (["distil"], False)
    explicit = BASE + "stages: {alone: {train: student}, distil: {train: student, teachers: teacher}}\n"
    assert list(judge(explicit, alone=False).recipe.stages) == ["distil"]
    assert list(judge(explicit).recipe.stages) == ["alone", "distil"]


def test_default_stages_need_a_student_and_a_teacher(judge: Judge) -> None:
    errors = judge(BASE, "~models.teacher").errors
    assert errors == [
        "recipe.yaml:5: models: there is no `teacher`, and no `stages:` that says what to train\n"
        "    call the two models `student` and `teacher`, or write `stages:`"
    ]


def test_a_teacher_that_nobody_trained_is_an_error_and_several_ways_make_it_right(judge: Judge) -> None:
    errors = judge(BASE, "~models.teacher.weights").errors
    assert errors == [
        "recipe.yaml:6: models.teacher: the teacher `teacher` is untrained in stage `distil`: "
        "no earlier stage trains it\n"
        "    give it weights (models.teacher.weights: FILE), or train it in an earlier stage"
    ]
    for given in ("pretrained: true", "folder: saved", "hub: owner/net"):
        assert judge(BASE, f"models.teacher={{use: hub, name: x, {given}}}").errors == []
    assert judge(THREE).errors == []
    assert judge(THREE, "~stages.teach", "stages.distil.init={teacher: student}").errors == []


def test_a_model_that_is_trained_and_teaches_is_no_untrained_teacher(judge: Judge) -> None:
    text = BASE + "stages: {learn: {train: [teacher, student], teachers: [teacher, student]}}\n"
    recipe = judge(text, "losses.ce.student=student", "losses.kd={student: student, teacher: teacher}").recipe
    assert recipe.stages["learn"].teachers == ("teacher", "student")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.distil.train=studnt", "stages.distil.train: there is no model `studnt`\n    did you mean `student`?"),
        ("stages.distil.train=[student, studnt]", "stages.distil.train.1: there is no model `studnt`"),
        ("stages.distil.train=[student, student]", "stages.distil.train: names `student` twice"),
        ("stages.distil.teachers=techer", "stages.distil.teachers: there is no model `techer`"),
        ("stages.distil.teachers=student", "stages.distil.teachers: `student` would be its own teacher"),
        (
            "~stages.distil.train",
            "stages.distil: stage `distil` trains nothing\n    add `train: MODEL`, or `do: {use: ACTION}`",
        ),
        ("stages.distil.train=[]", "stages.distil.train: stage `distil` trains nothing"),
        ("stages.distil=null", "stage `distil` trains nothing"),
        ("stages.distil=train", "stages.distil: is `train`, but must be a mapping"),
        ("stages={}", "is merged"),
        ("stages.distil.loses={}", "stages.distil.loses: unknown key of a stage\n    did you mean `losses`?"),
        ("stages.mark.train=student", "stages.mark.train: a stage either trains or does something"),
        (
            "stages.mark.trainer={max_epochs: 1}",
            "stages.mark.trainer: means nothing in a stage with `do:`\n    known: do, data, task, once",
        ),
        ("stages.mark.do.use=tabel", "stages.mark.do.use: there is no action `tabel`\n    did you mean `table`?"),
        ("stages.distil.keep=all", "stages.distil.keep: is `all`, but must be one of `best`, `last`"),
        ("stages.distil.once=1", "stages.distil.once: is `1`, but must be true or false"),
        ("stages.distil.losses={}", "stage `distil` has no loss left\n    add `losses:`"),
        (
            "stages.teach.losses.ce.use=kl",
            "stage `teach` has no loss left\n    left out for want of a teacher: losses.ce; give it losses",
        ),
        ("stages.teach.losses.ce.weight=0", "stage `teach` has no loss left"),
        ("stages.teach.data.use=arays", "stages.teach.data.use: there is no data `arays`"),
        (
            "models.student.classes=7",
            "models.student.classes: is `7`, but task.classes is `10` (recipe.yaml:3)\n    leave it out",
        ),
        ("stages.teach.task={classes: 5}", "is 5"),
        (
            "stages.teach.trainer.devices=2",
            "stage `distil` has `devices: None`, stage `teach` has `devices: 2`\n    write it in the recipe's",
        ),
    ],
)
def test_what_is_wrong_with_a_stage(judge: Judge, override: str, message: str) -> None:
    errors = judge(THREE, override).errors
    if message in ("is merged", "is 5"):  # no error: an empty mapping changes nothing, one stage may differ
        assert errors == []
    else:
        assert any(message in error for error in errors), errors


def test_a_weight_of_nought_is_kept_for_the_build_to_skip(judge: Judge) -> None:
    losses = judge(BASE, "losses.kd.weight=0").recipe.stages["distil"].losses
    assert losses["kd"].weight == 0
    assert losses["ce"].weight == 0.1


def test_stages_that_are_empty(judge: Judge) -> None:
    assert "stages: holds no stage" in judge(BASE + "stages: {}\n").errors[0]
    assert judge(BASE + "stages: null\n").errors == []


def test_names_that_recipes_share_across_stages_are_errors_once(judge: Judge) -> None:
    errors = judge(THREE.replace("warmup: 0.1", "warmpu: 0.1")).errors
    assert errors == [
        "recipe.yaml:12: optimizer.schedule.warmpu: unknown key of schedule `cosine`\n    did you mean `warmup`?"
    ]


def test_stages_may_be_interpolated(judge: Judge) -> None:
    text = THREE + "  again: ${stages.distil}\n"
    stages = judge(text, "stages.again.train=alone", "models.alone=${models.student}").recipe.stages
    assert (stages["again"].train, stages["again"].teachers) == (("alone",), ("teacher",))
    assert stages["distil"].train == ("student",)


# ---- names, and what is run once


@pytest.mark.parametrize("name", ["seed-0", "seed-12", "wandb"])
def test_a_stage_is_not_called_like_a_folder_of_the_run(judge: Judge, name: str) -> None:
    checked = judge(BASE + f"stages: {{{name}: {{train: student, teachers: [teacher]}}}}\n")
    message = f"stages.{name}: a stage cannot be called `{name}`\n    the run folder has one of that name already"
    assert any(message in line for line in checked.errors), checked.errors


@pytest.mark.parametrize("name", ["train", "cache", "seed", "values"])
def test_a_stage_may_be_called_anything_else(judge: Judge, name: str) -> None:
    assert not judge(BASE + f"stages: {{{name}: {{train: student, teachers: [teacher]}}}}\n").errors


@pytest.mark.parametrize(
    ("section", "slot"),
    [("models", "{use: net, width: 3}"), ("losses", "{use: mse}"), ("metrics", "{use: accuracy}")],
)
def test_models_losses_and_metrics_are_not_called_like_parts_of_a_module(judge: Judge, section: str, slot: str) -> None:
    (error,) = set(judge(BASE, f"{section}.update={slot}").errors)
    assert f"{section}.update: `update` is a word that torch keeps for itself\n    call it `update_`, or" in error


def test_the_words_that_torch_keeps_are_all_known() -> None:
    from torch import nn

    kept = {name for name in dir(nn.ModuleDict()) if not name.startswith("_")}
    assert kept <= RESERVED


def test_a_stage_that_is_run_once_builds_on_no_stage_of_each_seed(judge: Judge) -> None:
    text = THREE.replace("    once: true\n", "").replace(
        "distil: {train: student, teachers: [teacher]}", "distil: {train: student, teachers: [teacher], once: true}"
    )
    message = (
        "stages.distil.once: stage `distil` runs once for all seeds, but builds on `teach`, which does not\n"
        "    write `once: true` in `teach` too, or take it out here"
    )
    assert any(message in line for line in judge(text).errors)
    assert not judge(THREE.replace("teachers: [teacher]}", "teachers: [teacher], once: true}")).errors


def test_an_action_that_is_run_once_builds_on_every_stage_before_it(judge: Judge) -> None:
    text = THREE.replace("    once: true\n", "").replace("data: {labels: 5}", "once: true, data: {labels: 5}")
    assert any("stage `mark` runs once for all seeds, but builds on `teach`" in line for line in judge(text).errors)
