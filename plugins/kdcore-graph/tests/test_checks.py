from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conftest import Lab

from kdcore.errors import RecipeError
from kdcore_graph.checks import check_recipe


def problems(lab: Lab, *overrides: str) -> list[str]:
    try:
        found = lab.plugins.check_recipe(lab.read(*overrides))
    except RecipeError as error:
        found = list(error.problems)
    return [f"{problem.path}: {problem.message}" for problem in found]


def test_a_sound_recipe(lab: Lab) -> None:
    assert problems(lab) == []
    assert problems(lab, "stages.distil.data={batch_size: 64, class_weights: balanced}") == []


@pytest.mark.parametrize(
    ("override", "name", "message"),
    [
        (
            "stages.teach.data={setting: production}",
            "setting",
            "has setting = its default, stage `teach` has 'production'",
        ),
        ("stages.distil.data={unseen: 0.5}", "unseen", "has unseen = 0.5, stage `teach` has its default"),
        (
            "stages.distil.data={train_per_class: 5}",
            "train_per_class",
            "has train_per_class = 5, stage `teach` has its default",
        ),
        ("stages.distil.data={split_seed: 1}", "split_seed", "has split_seed = 1, stage `teach` has its default"),
    ],
)
def test_stages_that_see_different_splits(lab: Lab, override: str, name: str, message: str) -> None:
    found = problems(lab, override)
    assert len(found) == 1
    assert found[0].startswith(f"stages.distil.data.{name}: ")
    assert message in found[0]
    assert "what one of them is tested on, the other has learnt from" in found[0]


def test_another_graph_in_another_stage(lab: Lab) -> None:
    found = problems(lab, "stages.distil.data={source: {use: graph.digits, noise: 0.1}}")
    assert any(problem.startswith("stages.distil.data.source: ") for problem in found)


def test_a_shared_teacher_has_seen_other_seeds_tests(lab: Lab) -> None:
    found = problems(lab, "stages.teach.once=true")
    assert len(found) == 1
    assert "stage `teach` is run once for all seeds, and each seed draws a split of its own" in found[0]
    assert problems(lab, "stages.teach.once=true", "data.split_seed=0") == []


FLIP = "{flip: {use: torchvision, name: RandomHorizontalFlip}}"


@pytest.mark.parametrize("batches", ["", "batch_size: 8, "])
@pytest.mark.parametrize("key", ["transform", "views"])
def test_transforms_see_samples_and_a_graph_gives_none(lab: Lab, key: str, batches: str) -> None:
    said = FLIP if key == "transform" else f"{{strong: {FLIP}}}"
    found = problems(lab, f"stages.distil.data={{{batches}{key}: {said}}}")
    message = "graph: a transform changes single samples, and `graph.nodes` gives batches of a graph"
    assert found == [f"stages.distil.data.{key}: {message}"]


def test_labelled_nodes_are_asked_for_by_a_key_of_their_own(lab: Lab) -> None:
    (problem,) = problems(lab, "stages.distil.data={samples: labelled}")
    assert problem.startswith("stages.distil.data.samples: graph: a graph's nodes are no samples of their own")
    assert problems(lab, "stages.distil.data={nodes: labelled}") == []


def test_a_key_that_all_stages_share_is_refused_once(lab: Lab) -> None:
    assert len(problems(lab, f"data.transform={FLIP}")) == 1


@pytest.mark.parametrize(
    ("use", "keys", "is_refused"),
    [
        ("graph.nodes", {}, True),
        ("graph.nodes", {"batch_size": 8}, False),
        ("graph.nodes", {"batch_size": 8, "fanout": [2]}, True),
        ("graph.links", {"batch_size": 8}, True),
    ],
)
def test_a_table_chooses_among_nodes_in_small_batches_alone(
    lab: Lab, use: str, keys: dict[str, Any], is_refused: bool
) -> None:
    recipe = lab.read()
    stage = recipe.stages["distil"]
    data = replace(stage.data, path="stages.distil.data", use=use, args=keys, table="pick")
    found = check_recipe(replace(recipe, stages={"distil": replace(stage, data=data)}))
    message = "a table chooses among samples, and only small batches of nodes without `fanout` are made of such"
    assert [(problem.path, problem.message) for problem in found] == is_refused * [
        ("stages.distil.data.table", message)
    ]


def test_a_source_is_no_data(lab: Lab) -> None:
    found = problems(lab, "data={use: graph.digits}")
    assert any("`graph.digits` is a source and makes no batches" in problem for problem in found)


def test_a_cache_is_not_needed(lab: Lab) -> None:
    found = problems(lab, "cache={of: teacher}")
    assert any("what a frozen teacher says about a graph is computed once anyway" in problem for problem in found)
