"""What a stage does before its first step."""

from __future__ import annotations

import pytest

from kdcore.recipe.schema import Cache, Init

from .conftest import BASE, Judge

STAGED = BASE + "stages: {distil: {train: student, teachers: [teacher]}}\n"


@pytest.mark.parametrize(
    ("override", "init"),
    [
        ("{student: teacher}", Init("teacher")),
        ("{student: {from: teacher}}", Init("teacher")),
        ("{student: {from: teacher, map: {layers.1: layers.4}}}", Init("teacher", {"layers.1": "layers.4"})),
    ],
)
def test_first_weights_come_from_another_model(judge: Judge, override: str, init: Init) -> None:
    assert judge(STAGED, f"stages.distil.init={override}").recipe.stages["distil"].init == {"student": init}


def test_parts_may_be_frozen(judge: Judge) -> None:
    stage = judge(STAGED, "stages.distil.freeze={student: [encoder.**, stem]}").recipe.stages["distil"]
    assert stage.freeze == {"student": ("encoder.**", "stem")}
    assert judge(STAGED, "stages.distil.freeze.student=stem").recipe.stages["distil"].freeze == {"student": ("stem",)}


def test_a_cache_of_the_recipe_is_read_where_its_teacher_teaches(judge: Judge) -> None:
    stages = judge(BASE, "cache={of: teacher, topk: 10}").recipe.stages
    assert stages["alone"].cache is None
    assert stages["distil"].cache == Cache("teacher", ("logits",), 10, "float16")


def test_a_stage_may_have_its_own_cache_or_none(judge: Judge) -> None:
    own = "stages.distil.cache={of: teacher, keep: [logits, tap.deep], dtype: float32}"
    assert judge(STAGED, own).recipe.stages["distil"].cache == Cache("teacher", ("logits", "tap.deep"), None, "float32")
    off = judge(STAGED, "cache={of: teacher}", "stages.distil.cache=null").recipe.stages["distil"]
    assert off.cache is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "stages.distil.init={studnt: teacher}",
            "init.studnt: `studnt` is no model of stage `distil`\n    did you mean `student`?",
        ),
        (
            "stages.distil.init={student: techer}",
            "init.student: there is no model `techer`\n    did you mean `teacher`?",
        ),
        ("stages.distil.init={student: student}", "init.student: `student` would start from itself"),
        ("stages.distil.init={student: {map: {a: b}}}", "init.student: does not say where the weights come from"),
        (
            "stages.distil.init={student: {from: teacher, mpa: {}}}",
            "init.student.mpa: unknown key of init\n    did you mean `map`?",
        ),
        (
            "stages.distil.init={student: {from: teacher, map: [a]}}",
            "init.student.map: is a list, but must be a mapping",
        ),
        ("stages.distil.init=teacher", "init: is `teacher`, but must be a mapping"),
        (
            "stages.distil.freeze={teacher: x}",
            "freeze.teacher: stage `distil` does not train `teacher`\n    known: student",
        ),
        ("stages.distil.freeze={student: {a: b}}", "freeze.student: is a mapping, but must be text or a list of texts"),
        ("cache={of: techer}", "cache.of: there is no model `techer`"),
        ("cache={of: student}", "cache.of: model `student` teaches in no stage\n    known: teacher"),
        ("cache={keep: logits}", "cache: does not say which teacher\n    add `of: MODEL`"),
        ("cache={of: teacher, topk: 0}", "cache.topk: is `0`, but must be 1 or more"),
        (
            "cache={of: teacher, dtype: int8}",
            "cache.dtype: is `int8`, but must be one of `float32`, `float16`, `bfloat16`",
        ),
        ("cache={of: teacher, top: 3}", "cache.top: unknown key of a cache\n    did you mean `topk`?"),
        ("cache=teacher", "cache: is `teacher`, but must be a mapping"),
        (
            "stages.distil.cache={of: student}",
            "cache.of: `student` is no teacher of stage `distil`\n    known: teacher",
        ),
    ],
)
def test_what_is_wrong_with_a_start(judge: Judge, override: str, message: str) -> None:
    errors = judge(STAGED, override).errors
    assert any(message in error for error in errors), errors


def test_a_teacher_that_changes_cannot_be_cached(judge: Judge) -> None:
    text = STAGED.replace("teachers: [teacher]", "teachers: [slow, teacher]")
    errors = judge(text, "models.slow={use: ema, of: student}", "cache={of: slow}").errors
    assert len(errors) == 1
    assert "cache.of: `slow` changes while stage `distil` runs, so it cannot be cached" in errors[0]


def test_a_composite_has_no_weights_to_start_from(judge: Judge) -> None:
    errors = judge(STAGED, "models.slow={use: ema, of: student}", "stages.distil.init={student: slow}").errors
    assert len(errors) == 1
    assert "`slow` is composed of other models and has no weights of its own" in errors[0]
