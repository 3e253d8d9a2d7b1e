"""`new-recipe specdec.causal_lm` on a model and conversations of one's own."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Lab
from files import model_folder

from kdcore.new_recipe import new_recipe


def written(lab: Lab, teacher: Path | None) -> str:
    data = lab.folder / "chats.jsonl"
    data.write_text("".join(json.dumps({"prompt": "a b", "answer": "c d " * number}) + "\n" for number in range(1, 9)))
    given = None if teacher is None else str(teacher)
    return new_recipe("specdec.causal_lm", teacher=given, data=str(data), plugins=lab.plugins)


def test_it_is_sound_as_written(lab: Lab) -> None:
    target = model_folder(lab.folder / "target", context=2048)
    recipe = lab.read(text=written(lab, target))
    assert lab.problems(text=written(lab, target)) == []
    assert recipe.models["target"].args["pretrained"] == target
    assert recipe.models["draft"].args["config"] == target
    assert recipe.data.args["tokenizer"] == target
    assert recipe.data.args["path"] == lab.folder / "chats.jsonl"


def test_a_target_with_a_small_context_is_said(lab: Lab) -> None:
    found = lab.problems(text=written(lab, model_folder(lab.folder / "target", context=64)))
    assert "models.target: the data's rows have 1024 tokens, and this model sees 64 at most" in found


def test_without_a_target_it_says_what_is_missing(lab: Lab) -> None:
    found = lab.problems(text=written(lab, None))
    missing = f"there is no {lab.folder / 'TEACHER'}"
    assert sorted(found) == [
        f"data.tokenizer: {missing}",
        f"models.alone.config: {missing}",
        f"models.draft.config: {missing}",
        f"models.target.pretrained: {missing}",
    ]
