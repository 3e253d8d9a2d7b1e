from __future__ import annotations

from typing import Any

import pytest
import torch
from made import random_graph

from kdcore.losses import functional
from kdcore_graph.adversarial import Adversarial
from kdcore_graph.graph import GraphView
from kdcore_graph.models.gnn import GNN
from kdcore_graph.models.mlp import MLP

GRAPH = random_graph(60)
VIEW = GraphView(GRAPH.features, GRAPH.edges)


def nets(positions: int = 0) -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    student = MLP(classes=3, features=5, width=16, use_positions=positions > 0, positions=positions)
    return {"student": student, "teacher": GNN(classes=3, features=5).eval().requires_grad_(False)}


def batch(**more: Any) -> dict[str, Any]:
    return {"id": torch.arange(60), "features": GRAPH.features, "labels": GRAPH.labels, "graph": VIEW, **more}


def loss_of(student: torch.nn.Module, teacher: torch.nn.Module, features: torch.Tensor) -> float:
    with torch.no_grad():
        logits, target = student(features)["logits"], teacher(GRAPH.features, GRAPH.edges)["logits"]
        return float(functional.kl(logits, target).sum() + functional.cross_entropy_sum(logits, GRAPH.labels))


def test_the_student_errs_more_within_the_box() -> None:
    models = nets()
    found = Adversarial(radius=0.1, steps=3)(batch(), models.__getitem__)
    moved = found["views"]["adversarial"]["features"]
    assert float((moved - GRAPH.features).abs().max()) <= 0.1 + 1e-6
    random = GRAPH.features + 0.1 * torch.randn_like(GRAPH.features).sign()
    clean, attacked, chance = (
        loss_of(models["student"], models["teacher"], x) for x in (GRAPH.features, moved, random)
    )
    assert attacked > clean
    assert attacked > chance


def test_the_clean_batch_stays() -> None:
    before = GRAPH.features.clone()
    found = Adversarial()(batch(views={"other": {}}), nets().__getitem__)
    assert torch.equal(found["features"], before)
    assert set(found["views"]) == {"other", "adversarial"}


def test_no_gradient_is_left_behind() -> None:
    models = nets()
    Adversarial()(batch(), models.__getitem__)
    assert all(p.grad is None for p in models["student"].parameters())


def test_positions_and_sparse_features() -> None:
    given = batch(positions=torch.zeros(60, 2), features=GRAPH.features.to_sparse_csr())
    found = Adversarial()(given, nets(positions=2).__getitem__)
    assert found["views"]["adversarial"]["features"].layout == torch.strided


@pytest.mark.parametrize("wrong", [{"radius": 0.0}, {"steps": 0}])
def test_what_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"radius=.* must be above 0, and steps=.* at least 1"):
        Adversarial(**wrong)
