from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdcore.recipe.content import content, digest
from kdcore.recipe.schema import DataSlot, LossSlot, ModelSlot, Optimizer, Ref, Slot, Stage, Tap

LOSS = LossSlot(
    "losses.kd", "kl", {"temperature": 2.0}, weight=Slot("losses.kd.weight", "linear", {"end": 1.0}),
    roles={"teacher": (Ref("a"), Ref("b", "weak"))},
)  # fmt: skip
STAGE = Stage("distil", "stages.distil", Slot("task", "classify"), DataSlot("data", "digits"), losses={"kd": LOSS})


def test_a_slot_is_what_it_says_without_where_it_stands() -> None:
    assert content(Slot("models.a", "convnet", {"width": 8})) == {"use": "convnet", "args": {"width": 8}}


def test_nested_slots_lose_their_place_too() -> None:
    said = content(LOSS)
    assert said["weight"] == {"use": "linear", "args": {"end": 1.0}}
    assert said["roles"] == {"teacher": [{"model": "a", "view": None}, {"model": "b", "view": "weak"}]}
    assert "path" not in said


def test_an_argument_called_path_counts() -> None:
    assert content(Slot("data", "arrays", {"path": "a.npz"})) == {"use": "arrays", "args": {"path": "a.npz"}}
    assert digest(Slot("data", "arrays", {"path": "a.npz"})) != digest(Slot("data", "arrays", {"path": "b.npz"}))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, 2), [1, 2]),
        ([Path("a") / "b"], ["a/b"]),
        ({1: None, "b": True}, {"1": None, "b": True}),
        (Ref("a", "weak"), {"model": "a", "view": "weak"}),
        ("text", "text"),
    ],
)
def test_values_become_plain_types(value: Any, plain: Any) -> None:
    assert content(value) == plain


def test_a_digest_is_16_hexadecimal_digits() -> None:
    assert re.fullmatch("[0-9a-f]{16}", digest(STAGE))


def test_initial_weights_depend_on_it_so_it_may_never_change() -> None:
    assert digest(["convnet", {"width": 8}]) == "3a87786e635ba339"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ((1, 2), [1, 2]),
        (Path("a"), "a"),
        (STAGE, replace(STAGE, path="elsewhere")),
        (STAGE, replace(STAGE, losses={"kd": replace(LOSS, path="stages.distil.losses.kd")})),
        (Tap("deep", "taps.deep", {"a": "x"}), Tap("deep", "stages.distil.taps.deep", {"a": "x"})),
        (ModelSlot("models.a", "convnet"), ModelSlot("models.b", "convnet")),
    ],
)
def test_equal_content_has_equal_digests(one: Any, other: Any) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (1, "1"),
        (None, "None"),
        (0.1, 0.1 + 1e-17 + 1e-16),
        ([1, 2], [2, 1]),
        ([[1], 2], [[1, 2]]),
        ({"a": None}, {}),
        (float("nan"), float("inf")),
        (ModelSlot("m", "convnet"), ModelSlot("m", "convnet", seed=1)),
        (ModelSlot("m", "convnet"), ModelSlot("m", "convnet", edits=(Slot("m.edits.0", "lora"),))),
        (Optimizer("optimizer", "adamw"), Optimizer("optimizer", "adamw", schedule=Slot("s", "cosine"))),
        (LOSS, replace(LOSS, weight=Slot("w", "linear", {"end": 0.9}))),
        (LOSS, replace(LOSS, roles={"teacher": (Ref("b", "weak"), Ref("a"))})),
        (STAGE, replace(STAGE, trainer={"max_epochs": 1})),
    ],
)
def test_different_content_has_different_digests(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)


def test_a_digest_is_the_same_in_another_process() -> None:
    script = "from kdcore.recipe.content import digest\nprint(digest({'b': ('x', 1.5), 'a': None}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest({"a": None, "b": ["x", 1.5]})


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        digest({"a": {1, 2}})
