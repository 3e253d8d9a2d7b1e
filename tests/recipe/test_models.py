"""Models: the keys that the core owns, and composites."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcore.recipe.schema import ModelSlot, Slot

from .conftest import BASE, Judge

TWO = """\
kdcore: 1
name: two
task: {use: classify, classes: 10}
data: {use: arrays}
models:
  a: {use: net, seed: 1}
  b: {use: net, seed: 2}
  s: {use: net}
  both: {use: ensemble, of: [a, b]}
  slow: {use: ema, of: s, decay: 0.9}
losses: {kd: {use: kl}, ce: {use: cross_entropy}}
stages:
  one: {train: a, losses: {ce: {use: cross_entropy}}}
  two: {train: b, losses: {ce: {use: cross_entropy}}}
  last: {train: s, teachers: [both, slow]}
"""


def test_core_keys_are_kept_apart_from_arguments(judge: Judge, tmp_path: Path) -> None:
    slot = judge(
        BASE,
        "models.teacher={weights: sub/t.pt, partial: head.*, dtype: bfloat16, compile: true, mean: [0.5], std: [1, 2], "
        "seed: 7, edits: [{use: lora, rank: 4}]}",
    ).recipe.models["teacher"]
    assert slot == ModelSlot(
        "models.teacher",
        "net",
        {"width": 8},
        weights=f"file://{tmp_path}/sub/t.pt",
        partial=("head.*",),
        dtype="bfloat16",
        compile=True,
        mean=(0.5,),
        std=(1.0, 2.0),
        seed=7,
        edits=(Slot("models.teacher.edits.0", "lora", {"rank": 4}),),
    )


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("t.pt", "file://{here}/t.pt"),
        ("file://t.pt", "file://{here}/t.pt"),
        ("file:///abs/t.pt", "file:///abs/t.pt"),
        ("~/t.pt", "file:///home/me/t.pt"),
        ("hf://owner/name@abc", "hf://owner/name@abc"),
    ],
)
def test_weights_of_a_file_become_absolute(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, address: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    recipe = judge(BASE.replace("teacher.pt", given)).recipe
    wanted = address.format(here=tmp_path)
    assert recipe.models["teacher"].weights == wanted
    assert recipe.source["models"]["teacher"]["weights"] == wanted


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("models.teacher.weights=s3://b/x", "weights: `s3://b/x`: there is no weights `s3`\n    known: hf"),
        (
            "models.teacher.dtype=int8",
            "dtype: is `int8`, but must be one of `float32`, `bfloat16`, `float16`, `float64` or null",
        ),
        ("models.teacher.compile=3", "compile: is `3`, but must be true or false"),
        ("models.teacher.mean=0.5", "mean: is `0.5`, but must be a list of numbers or null"),
        ("models.teacher.std=[1, 0]", "std: holds a standard deviation that is not above 0"),
        ("models.teacher.seed=x", "seed: is `x`, but must be a whole number or null"),
        (
            "models.teacher.edits={use: lora}",
            "edits: is a mapping, but must be a list\n    write [{use: lora, rank: 8}]",
        ),
        ("models.teacher.edits=[{use: lora}]", "edits.0: edit `lora` needs `rank`"),
        ("models.teacher.weigths=x", "weigths: unknown key of model `net`\n    did you mean `weights`?"),
        (
            "models.teacher=net",
            "models.teacher: is `net`, but must be a mapping such as {use: NAME}\n    write {use: net}",
        ),
    ],
)
def test_what_is_wrong_with_a_model(judge: Judge, override: str, message: str) -> None:
    errors = judge(BASE, override).errors
    assert any(message in error for error in errors), errors


def test_composites_are_models_too(judge: Judge) -> None:
    recipe = judge(TWO).recipe
    assert recipe.models["both"].args == {"of": ["a", "b"]}
    assert recipe.models["slow"].args == {"of": "s", "decay": 0.9}
    assert recipe.stages["last"].teachers == ("both", "slow")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("models.both.of=[a, c]", "models.both.of: there is no model `c`\n    known: a, b, both, s, slow"),
        ("models.both.of=[a]", "models.both.of: an ensemble needs two members or more"),
        ("models.both.of=[a, a]", "models.both.of: names `a` twice"),
        ("models.both.of=[a, both]", "models.both.of: the member `both` is an ensemble itself"),
        ("models.both.of=a", "models.both.of: is `a`, but must be a list of texts"),
        (
            "models.slow.of=both",
            "models.slow.of: `ema` follows a net that is trained, and `both` is composed of others",
        ),
        ("models.both.weights=x", "models.both.weights: unknown key of model `ensemble`"),
        (
            "models.b.seed=1",
            "models `a` and `b` start with equal weights and would stay equal for ever\n"
            "    give one of them a seed: models.b.seed: 1",
        ),
        ("stages.last.train=both", "`both` is composed of other models and cannot be trained"),
        (
            "~stages.two",
            "the teacher `b` is untrained in stage `last`: no earlier stage trains it\n    give it weights",
        ),
        ("stages.last.train=a", "`slow` follows `s`, which stage `last` does not train\n    train `s` in this stage"),
    ],
)
def test_what_is_wrong_with_a_composite(judge: Judge, override: str, message: str) -> None:
    errors = judge(TWO, override).errors
    assert any(message in error for error in errors), errors


def test_members_that_differ_in_anything_but_their_name_are_fine(judge: Judge) -> None:
    assert judge(TWO, "models.b.seed=1", "models.b.width=9").errors == []
    assert judge(TWO, "models.b.seed=1", "models.b.weights=b.pt").errors == []
