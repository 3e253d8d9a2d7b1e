"""Losses, metrics and taps of a stage."""

from __future__ import annotations

import pytest

from kdcore.recipe.schema import LossSlot, Nested, Ref, Slot

from .conftest import BASE, Judge

PAIR = """\
kdcore: 1
name: pair
task: {use: classify, classes: 10}
data: {use: arrays}
models:
  a: {use: net, seed: 1}
  b: {use: net, seed: 2}
  t: {use: net, weights: t.pt}
stages:
  learn: {train: [a, b]}
losses:
  ce_a: {use: cross_entropy, student: a}
  ce_b: {use: cross_entropy, student: b}
  ab: {use: kl, student: a, teacher: b}
  ba: {use: kl, student: b, teacher: a@weak}
"""


def test_roles_default_to_the_trained_model_and_the_first_teacher(judge: Judge) -> None:
    recipe = judge(BASE).recipe
    assert recipe.stages["distil"].losses["kd"] == LossSlot(
        "losses.kd",
        "kl",
        {"temperature": 2.0},
        weight=0.9,
        roles={"student": Ref("student"), "teacher": Ref("teacher")},
    )
    assert recipe.stages["alone"].losses["ce"].roles == {"student": Ref("alone")}


def test_a_slot_binds_roles_views_and_signals(judge: Judge) -> None:
    recipe = judge(
        BASE + "taps: {deep: {student: layer4, teacher: layer4}}\n",
        "losses.kd={student: student@strong, teacher: teacher@weak, at: deep, resize: teacher}",
        "losses.m={use: mse, signal: boxes, read: {teacher.logits: student.exit1}}",
        "losses.c={use: contrast, bank: 3, reference: [teacher, student]}",
        "losses.many={use: kl, teacher: [teacher, teacher@weak]}",
    ).recipe
    losses = recipe.stages["distil"].losses
    assert losses["kd"].roles == {"student": Ref("student", "strong"), "teacher": Ref("teacher", "weak")}
    assert (losses["kd"].signal, losses["kd"].resize) == ("tap.deep", "teacher")
    assert (losses["m"].signal, losses["m"].read) == ("boxes", {"teacher.logits": "student.exit1"})
    assert losses["c"].roles["reference"] == (Ref("teacher"), Ref("student"))
    assert losses["c"].args == {"bank": 3}
    assert losses["many"].roles["teacher"] == (Ref("teacher"), Ref("teacher", "weak"))


def test_weights_and_scheduled_parameters_may_be_schedules(judge: Judge) -> None:
    loss = (
        judge(BASE, "losses.kd={weight: {use: linear, until: 0.3}, temperature: {use: linear, start: 4}}")
        .recipe.stages["distil"]
        .losses["kd"]
    )
    assert loss.weight == Nested("losses.kd.weight", "linear", {"until": 0.3})
    assert loss.args == {"temperature": Nested("losses.kd.temperature", "linear", {"start": 4.0})}


def test_a_loss_that_needs_a_teacher_is_left_out_where_there_is_none(judge: Judge) -> None:
    alone = judge(BASE, "losses.x={use: cross_entropy, teacher: teacher}").recipe.stages["alone"]
    assert list(alone.losses) == ["ce"]
    assert list(alone.metrics) == ["accuracy"]
    assert alone.left_out == ("losses.kd", "losses.x", "metrics.agreement")


def test_a_loss_that_reads_its_teacher_from_the_student_needs_none(judge: Judge) -> None:
    recipe = judge(BASE, "losses.kd.read={teacher.logits: student.exit1}").recipe
    assert "kd" in recipe.stages["alone"].losses
    assert recipe.stages["alone"].left_out == ("metrics.agreement",)


def test_a_mutual_pair_binds_its_roles_to_each_other(judge: Judge) -> None:
    stage = judge(PAIR).recipe.stages["learn"]
    assert stage.train == ("a", "b")
    assert stage.losses["ab"].roles == {"student": Ref("a"), "teacher": Ref("b")}
    assert stage.losses["ba"].roles == {"student": Ref("b"), "teacher": Ref("a", "weak")}
    assert stage.left_out == ()


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (
            BASE,
            "losses.kd.at=deep",
            "losses.kd.at: `deep` names no tap\n    add it: taps: {NAME: {student: PATH, teacher: PATH}}",
        ),
        (BASE, "losses.kd.signal=tap.deep", "losses.kd.signal: `tap.deep` names no tap"),
        (BASE, "losses.kd={at: x, signal: y}", "losses.kd.signal: `at` and `signal` both say what to read"),
        (BASE, "losses.kd.weight=-1", "losses.kd.weight: is `-1`, but a weight is 0 or more"),
        (BASE, "losses.kd.weight=.nan", "losses.kd.weight: is `.nan`, but a weight is 0 or more"),
        (BASE, "losses.kd.weight=.inf", "losses.kd.weight: is `.inf`, but a weight is 0 or more"),
        (BASE, "losses.kd.weight=abc", "losses.kd.weight: is `abc`, but must be a number or a schedule"),
        (
            BASE,
            "losses.kd.weight={use: liner}",
            "losses.kd.weight.use: there is no schedule `liner`\n    did you mean `linear`?",
        ),
        (BASE, "losses.kd.temperature={use: linear, begin: 1}", "temperature.begin: unknown key of schedule `linear`"),
        (BASE, "losses.kd.side=up", "losses.kd.side: is `up`, but must be one of `forward`, `reverse`"),
        (BASE, "losses.kd.resize=both", "losses.kd.resize: is `both`, but must be one of `student`, `teacher` or null"),
        (BASE, "losses.kd.teacher=techer", "losses.kd.teacher: `techer` names no model\n    did you mean `teacher`?"),
        (BASE, "losses.kd.teacher=teacher@", "losses.kd.teacher: `teacher@` names no view after the @"),
        (BASE, "losses.kd.teacher={a: b}", "losses.kd.teacher: is a mapping, but must be text"),
        (BASE, "losses.kd.student=teacher", "`teacher` is the student here, but stage `distil` does not train it"),
        (
            BASE,
            "losses.kd.teacher=alone",
            "`alone` takes no part in stage `distil`\n    add it: stages.distil.teachers: [alone]",
        ),
        (
            BASE,
            "losses.kd.read={teacher.logit: student.x}",
            "loss `kl` does not read `teacher.logit`\n    did you mean `teacher.logits`?",
        ),
        (BASE, "losses.kd.read={teacher.logits: exit1}", "`exit1` is no signal of a role\n    write role.signal"),
        (
            BASE,
            "losses.kd.read={teacher.logits: studnt.x}",
            "`studnt.x` is of no role of loss `kl`\n    did you mean `student`?",
        ),
        (
            BASE,
            "losses.c={use: contrast, bank: 3}",
            "losses.c: the role `reference` is bound to no model\n    add `reference: MODEL`",
        ),
        (BASE, "losses.kd=null", "losses.kd: is `null`, but must be a mapping such as {use: NAME}"),
        (
            PAIR,
            "~losses.ce_a.student",
            "losses.ce_a: stage `learn` trains a and b, and this loss does not say which is its student",
        ),
        (PAIR, "models.b.seed=1", "stages.learn.train: models `a` and `b` start with equal weights"),
    ],
)
def test_what_is_wrong_with_a_loss(judge: Judge, text: str, override: str, message: str) -> None:
    errors = judge(text, override).errors
    assert any(message in error for error in errors), errors


def test_a_close_tap_is_suggested(judge: Judge) -> None:
    errors = judge(BASE + "taps: {deep: {student: a, teacher: b}}\n", "losses.kd.at=deap").errors
    assert errors == ["override `losses.kd.at=deap`: losses.kd.at: `deap` names no tap\n    did you mean `deep`?"]


def test_a_tap_called_several_times_is_known_by_its_name(judge: Judge) -> None:
    recipe = judge(BASE + "taps: {deep: {student: a, teacher: b}}\n", "losses.kd.at=deep@1").recipe
    assert recipe.stages["distil"].losses["kd"].signal == "tap.deep@1"


def test_taps_name_models_or_stand_for_who_is_there(judge: Judge) -> None:
    text = PAIR.replace("learn: {train: [a, b]}", "learn: {train: [a, b], teachers: t}")
    text += "taps: {deep: {student: x.y, teacher: 'z:in(h)', b: 'q/1', project: {use: conv1x1, bias: false}}}\n"
    tap = judge(text).recipe.stages["learn"].taps["deep"]
    assert tap.paths == {"a": "x.y", "b": "q/1", "t": "z:in(h)"}
    assert tap.project == Slot("taps.deep.project", "conv1x1", {"bias": False})


def test_a_projector_may_be_a_bare_name(judge: Judge) -> None:
    tap = judge(BASE + "taps: {deep: {student: x, project: conv1x1}}\n").recipe.stages["distil"].taps["deep"]
    assert tap.project == Slot("taps.deep.project", "conv1x1", {})
    assert tap.paths == {"student": "x"}


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ("{deep: {studnt: x}}", "taps.deep.studnt: `studnt` is no model\n    did you mean `student`?"),
        ("{deep: {student: ''}}", "taps.deep.student: is empty, but must be the path of a layer"),
        ("{deep: {student: [x]}}", "taps.deep.student: is a list, but must be text"),
        ("{deep: layer4}", "taps.deep: is `layer4`, but must be a mapping"),
        ("{deep: {student: x, project: conv}}", "taps.deep.project: there is no projector `conv`"),
    ],
)
def test_what_is_wrong_with_a_tap(judge: Judge, taps: str, message: str) -> None:
    errors = judge(BASE + f"taps: {taps}\n").errors
    assert len(errors) == 1
    assert message in errors[0]
