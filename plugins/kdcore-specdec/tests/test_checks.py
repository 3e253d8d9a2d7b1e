from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import BASE, Lab
from files import model_folder, tokenizer_folder


def test_a_sound_recipe(lab: Lab) -> None:
    assert lab.problems() == []
    assert lab.problems("task.layers=[0,1,-1,3]", "data.length=2048") == []


@pytest.mark.parametrize("layer", [4, -4])
def test_a_layer_that_the_target_does_not_have(lab: Lab, layer: int) -> None:
    (found,) = lab.problems(f"task.layers=[0,{layer}]")
    assert found == f"task.layers: layer {layer} is wanted of `target`, which has 3"


def test_a_second_teacher_may_be_shallower(lab: Lab) -> None:
    text = BASE.replace("teachers: [target]", "teachers: [small, target]").replace(
        "models:", "models:\n  small: ${models.draft}"
    )
    text = text.replace("  distil:", "  small: {train: small, losses: {ce: {use: specdec.cross_entropy}}}\n  distil:")
    assert lab.problems("task.layers=[0,2]", text=text) == []
    assert lab.problems("task.layers=[4]", text=text) == ["task.layers: layer 4 is wanted of `target`, which has 3"]


def test_rows_longer_than_a_models_context(lab: Lab) -> None:
    assert lab.problems("models.draft.context=64", "data.length=65") == [
        "models.draft: the data's rows have 65 tokens, and this model sees 64 at most"
    ]
    # the default of the data counts as well
    text = BASE.replace("length: 24, ", "")
    assert lab.problems("models.draft.context=511", text=text) == [
        "models.draft: the data's rows have 512 tokens, and this model sees 511 at most"
    ]


def pretrained(lab: Lab, tokenizer: Path | None, model: Path) -> str:
    data = BASE if tokenizer is None else BASE.replace("length: 24", f"length: 24, tokenizer: {tokenizer}")
    slot = f"{{use: specdec.pretrained, pretrained: {model}}}"
    text = data.replace("{use: specdec.llama, layers: 3, width: 16, heads: 2}", slot)
    return text.replace("  teach: {train: target, losses: {ce: {use: specdec.cross_entropy}}}\n", "")


def test_a_model_with_the_datas_tokenizer(lab: Lab) -> None:
    model = model_folder(lab.folder / "model", context=32)
    same = tokenizer_folder(lab.folder / "same")
    for tokenizer in (model, same):
        assert lab.problems(text=pretrained(lab, tokenizer, model)) == []
    text = pretrained(lab, model, model)
    assert lab.problems("data.length=33", text=text) == [
        "models.target: the data's rows have 33 tokens, and this model sees 32 at most"
    ]
    assert lab.problems("task.layers=[5]", text=text) == ["task.layers: layer 5 is wanted of `target`, which has 2"]


@pytest.mark.parametrize(
    ("words", "message"), [("a c b d", "other ids for 2 of its 8 tokens than"), ("a", "8 tokens, not the 5 of")]
)
def test_a_model_with_another_tokenizer(lab: Lab, words: str, message: str) -> None:
    model, other = model_folder(lab.folder / "model"), tokenizer_folder(lab.folder / "other", words=words)
    (found,) = lab.problems(text=pretrained(lab, other, model))
    assert found.startswith(
        f"models.target.pretrained: its tokenizer has {message} that of {other}, which the data is read"
    )


def test_a_model_with_a_tokenizer_and_data_of_bytes(lab: Lab) -> None:
    model = model_folder(lab.folder / "model")
    assert lab.problems(text=pretrained(lab, None, model)) == [
        "data: `target` has a tokenizer of its own, and the data reads bytes"
    ]


def test_files_that_tell_nothing_are_left_to_the_start(lab: Lab) -> None:
    model, other = lab.folder / "model", lab.folder / "other"
    for folder in (model, other):
        folder.mkdir()
    (model / "tokenizer.json").write_text("no json")
    (other / "vocab.json").write_text(json.dumps({"a": 0}))
    assert lab.problems(text=pretrained(lab, other, model)) == []
    (model / "vocab.json").write_text(json.dumps({"b": 0}))
    (found,) = lab.problems(text=pretrained(lab, other, model))
    assert "other ids for 1 of its 1 tokens" in found


ON_POLICY = "stages.distil.task={use: specdec.on_policy, draft: draft, target: target}"


def test_sampling(lab: Lab) -> None:
    assert lab.problems(ON_POLICY, "stages.distil.data={packed: false}") == []
    assert lab.problems(ON_POLICY) == [
        "data.packed: stage `distil` continues rows, and its data packs several documents into one"
    ]
    assert lab.problems(ON_POLICY.replace("draft: draft", "draft: drat"), "data.packed=false") == [
        "stages.distil.task.draft: `drat` is to continue the rows of stage `distil`, and neither learns nor teaches "
        "there"
    ]


def test_regenerating(lab: Lab) -> None:
    text = BASE.replace("  distil:", "  say: {do: {use: specdec.regenerate, model: targt}}\n  distil:")
    found = lab.problems(text=text)
    assert "stages.say.do.model: there is no model `targt`" in found
    assert any(
        one.endswith("stage `say` continues rows, and its data packs several documents into one") for one in found
    )
    assert lab.problems("stages.say.do.model=target", "data.packed=false", text=text) == []


def test_a_draft_that_reads_a_model_which_does_not_teach(lab: Lab) -> None:
    slot = "models.draft={use: specdec.medusa, width: 16, target: %s}"
    assert lab.problems(slot % "target") == []
    assert lab.problems(slot % "tarket") == ["models.draft.target: there is no model `tarket`"]
    assert (
        lab.problems(
            slot % "target", "stages.distil.teachers=[other]", "models.other={use: specdec.llama, pretrained: x}"
        )
        != []
    )
