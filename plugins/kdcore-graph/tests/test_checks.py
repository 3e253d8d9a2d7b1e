from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import Lab

from kdcore.errors import RecipeError


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


def test_a_source_is_no_data(lab: Lab) -> None:
    found = problems(lab, "data={use: graph.digits}")
    assert any("`graph.digits` is a source and makes no batches" in problem for problem in found)


def test_a_cache_is_not_needed(lab: Lab) -> None:
    found = problems(lab, "cache={of: teacher}")
    assert any("what a frozen teacher says about a graph is computed once anyway" in problem for problem in found)


def test_checking_imports_no_torch() -> None:
    script = "import sys, kdcore_graph.plugin, kdcore_graph.checks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
