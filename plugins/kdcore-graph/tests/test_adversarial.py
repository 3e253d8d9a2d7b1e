from __future__ import annotations

from typing import Any

import pytest
import torch
from made import random_graph

from kdcore.losses import functional
from kdcore.task import set_input_statistics
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


def test_the_student_is_run_as_its_task_runs_it() -> None:
    """With the statistics of its slot, and though it returns logits alone."""
    models = nets()
    plain = torch.nn.Linear(5, 3)
    set_input_statistics(plain, [4.0] * 5, [2.0] * 5)
    seen: list[torch.Tensor] = []
    plain.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    found = Adversarial(radius=0.1, steps=1)(batch(), {**models, "student": plain}.__getitem__)
    assert len(seen) == 1
    assert float((2 * seen[0] + 4 - GRAPH.features).abs().max()) <= 0.1 + 1e-5
    assert found["views"]["adversarial"]["features"].shape == GRAPH.features.shape


@pytest.mark.parametrize("wrong", [{"radius": 0.0}, {"steps": 0}])
def test_what_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"radius=.* must be above 0, and steps=.* at least 1"):
        Adversarial(**wrong)


class Sum(torch.nn.Module):
    """Class 0 likes every feature, class 1 dislikes it."""

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        added = features.sum(1, keepdim=True)
        return {"logits": torch.cat([added, -added], 1)}


def test_one_step_goes_to_the_wall_that_the_labels_dislike() -> None:
    """By hand: what raises the loss of label 0 lowers every feature, and a step is as long as the box is wide."""

    class Even(torch.nn.Module):
        def forward(self, features: torch.Tensor, **graph: Any) -> dict[str, torch.Tensor]:
            return {"logits": torch.zeros(len(features), 2)}

    labels = (torch.arange(60) % 2).masked_fill(torch.arange(60) % 3 == 0, -100)
    features = torch.full((60, 5), 0.01)
    models = {"student": Sum(), "teacher": Even().eval()}
    given = batch(labels=labels, features=features, graph=GraphView(features, GRAPH.edges))
    moved = Adversarial(radius=0.1, steps=1)(given, models.__getitem__)["views"]["adversarial"]["features"]
    change = moved - features
    torch.testing.assert_close(change[labels == 0], torch.full((20, 5), -0.1))
    torch.testing.assert_close(change[labels == 1], torch.full((20, 5), 0.1))


def test_which_model_is_attacked_and_whose_answers_count_is_said() -> None:
    asked: list[str] = []
    models = nets()

    def named(name: str) -> torch.nn.Module:
        asked.append(name)
        return models["student" if name == "nosmog" else "teacher"]

    Adversarial(of="nosmog", teacher="gnn")(batch(), named)
    assert asked == ["nosmog", "gnn"]


def test_the_start_is_random_within_the_box() -> None:
    found = [Adversarial(radius=0.05)(batch(), nets().__getitem__)["views"]["adversarial"]["features"] for _ in "ab"]
    assert all((one - GRAPH.features).abs().max() <= 0.05 + 1e-6 for one in found)


def test_the_teacher_is_asked_once_however_many_steps() -> None:
    models, calls = nets(), []
    models["teacher"].register_forward_pre_hook(lambda *given: calls.append(1))
    Adversarial(steps=4)(batch(), models.__getitem__)
    assert len(calls) == 1
