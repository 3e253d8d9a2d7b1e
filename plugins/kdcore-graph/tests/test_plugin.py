from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from made import npz, random_graph

from kdcore.plugins import Plugins
from kdcore.testing import check_plugin, registered
from kdcore_graph import plugin

SMALL = ("data.steps=1", "stages.teach.trainer={}")
FIT = {
    "graph": SMALL,
    "graph.cora": SMALL,
    "graph.distillers": (*SMALL, "stages.tokenize.trainer={}"),
    "graph.wordnet": ("data.steps=1",),
    "graph.links": ("data.steps=1", "data.negatives=100"),
}


def test_it_keeps_what_a_plugin_promises(tmp_path: Path) -> None:
    check_plugin("graph", environment={"KDCORE_DATA": str(tmp_path)})


@pytest.mark.slow
@pytest.mark.parametrize("recipe", FIT)
def test_each_recipe_runs_two_steps(recipe: str, tmp_path: Path) -> None:
    for name in ("cora", "wordnet5k"):
        npz(tmp_path / "graph" / f"{name}.npz", random_graph(240))
    check_plugin("graph", fit={recipe: FIT[recipe]}, environment={"KDCORE_DATA": str(tmp_path)}, only=["fit"])


def test_no_recipe_is_forgotten() -> None:
    assert set(FIT) == {name for name in Plugins().shipped_recipes() if name.partition(".")[0] == "graph"}


def test_everything_it_adds() -> None:
    kinds = ("task", "data", "model", "prepare", "metric", "optimizer")
    assert {kind: sorted(registered("graph", kind)) for kind in kinds} == {
        "task": ["links", "nodes"],
        "data": ["digits", "links", "nodes", "npz", "ogb", "planetoid", "pyg", "tables"],
        "model": ["gnn", "link_gnn", "link_mlp", "mlp", "vq_gnn"],
        "prepare": ["adversarial"],
        "metric": [
            "auroc", "average_precision", "hits", "mrr", "noise_accuracy", "recall_at_precision", "seen_accuracy",
            "unseen_accuracy",
        ],
        "optimizer": ["adam"],
    }  # fmt: skip


def test_a_missing_pyg_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugin.kdcore_check_environment() == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch_geometric" else find_spec(name))
    (problem,) = plugin.kdcore_check_environment()
    assert problem.message == "PyTorch Geometric is not installed, which the teachers need"
    assert problem.hint == "pip install torch_geometric"
