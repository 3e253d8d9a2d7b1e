from __future__ import annotations

from typing import Any

import pytest
import torch
from made import path_graph
from naive import kl

from kdcore.errors import RunError
from kdcore.task import set_input_statistics
from kdcore_graph.graph import GraphView
from kdcore_graph.losses.krd import KRD, entropy_change
from kdcore_graph.models.gnn import GNN

VIEW = GraphView(path_graph(6).features, path_graph(6).edges)
BATCH: dict[str, Any] = {"edges": VIEW.edges, "id": torch.arange(6), "graph": VIEW}


def made(change: list[float] | None = None, **keys: Any) -> KRD:
    torch.manual_seed(0)
    loss = KRD(**keys)
    teacher = GNN(classes=2, features=3, width=4).eval()
    loss.setup({}, {}, lambda role: teacher)
    if change is not None:
        loss._measured = (id(VIEW), torch.tensor(change))
    return loss


def signals(seed: int) -> dict[str, torch.Tensor]:
    return {"logits": torch.randn(6, 2, generator=torch.Generator().manual_seed(seed))}


def test_reliable_neighbours_are_always_drawn_and_the_least_reliable_never() -> None:
    student, teacher = signals(0), signals(1)
    found = made([0.0, 0.0, 0.0, 0.0, 0.0, 1.0]).eval()(student, teacher, BATCH)
    s, t = student["logits"].tolist(), teacher["logits"].tolist()
    expected = sum(kl(t[j], s[i]) for j, i in VIEW.edges.T.tolist() if j != 5)
    assert float(found.sum) == pytest.approx(expected, rel=1e-5)
    assert int(found.count) == 10


def test_the_share_that_is_drawn_is_one_minus_the_place_to_the_power() -> None:
    loss = made([1.0, 0.5, 0.5, 0.5, 0.5, 0.5]).eval()
    loss.power.fill_(2.0)
    student, teacher = signals(0), {"logits": torch.zeros(6, 2)}
    every = made([1.0] + [0.0] * 5).eval()(student, teacher, BATCH).sum
    torch.manual_seed(0)
    drawn = torch.stack([loss(student, teacher, BATCH).sum for _ in range(3000)]).mean()
    assert float(drawn / every) == pytest.approx(0.75, abs=0.02)


def test_the_change_of_entropy_is_the_slow_formula() -> None:
    torch.manual_seed(0)
    teacher = GNN(classes=3, features=3, width=4).eval()
    found = entropy_change(teacher, VIEW, noise=0.5, draws=3)
    from kdcore.data.seeds import derive_seed

    draws = torch.Generator().manual_seed(derive_seed("graph.krd"))

    def entropy(features: torch.Tensor) -> torch.Tensor:
        p = teacher(features, VIEW.edges)["logits"].softmax(1)
        return torch.stack([-(row * row.log()).sum() for row in p])

    with torch.no_grad():
        clean = entropy(VIEW.features)
        noisy = [entropy(VIEW.features + 0.5 * torch.randn(6, 3, generator=draws)) for _ in range(3)]
    expected = sum((one - clean) ** 2 for one in noisy) / (3 * 0.25)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_the_teacher_is_measured_with_the_statistics_of_its_slot() -> None:
    """A net whose slot scales is the one whose first layer, and noise, are scaled."""
    torch.manual_seed(0)
    teacher = GNN(classes=3, features=3, width=4).eval()
    scaled = GraphView((VIEW.features - 0.5) / 2, VIEW.edges)
    expected = entropy_change(teacher, scaled, noise=0.25, draws=3) / 4
    set_input_statistics(teacher, [0.5], [2.0])
    assert torch.allclose(entropy_change(teacher, VIEW, noise=0.5, draws=3), expected, rtol=1e-4, atol=1e-7)


def test_it_is_measured_once() -> None:
    loss = made()
    first = loss._change(VIEW, torch.device("cpu"))
    assert loss._change(VIEW, torch.device("cpu")) is first


def test_the_power_moves_towards_the_agreement() -> None:
    loss = made(momentum=0.0)
    place = (torch.arange(200) + 0.5) / 200
    wanted = 1 - place**3
    agree = torch.arange(200) % 10 < (wanted * 10).round()
    loss._follow(place, agree)
    assert float(loss.power) == pytest.approx(3, abs=0.7)
    slow = made(momentum=0.9)
    slow._follow(place, agree)
    assert float(slow.power) == pytest.approx(0.9 + 0.1 * float(loss.power), rel=1e-5)


def test_only_training_moves_it() -> None:
    loss = made()
    loss.eval()(signals(0), signals(1), BATCH)
    assert float(loss.power) == 1
    loss.train()(signals(0), signals(1), BATCH)
    assert float(loss.power) != 1


def test_the_power_is_in_the_checkpoint_and_the_teacher_is_not() -> None:
    assert set(made().state_dict()) == {"power"}


def test_a_teacher_without_a_graph_is_refused() -> None:
    with pytest.raises(RunError, match="krd measures how a GNN's answers change under noise: its teacher must be one"):
        KRD().setup({}, {}, lambda role: torch.nn.Linear(1, 1))


@pytest.mark.parametrize("wrong", [{"noise": 0.0}, {"draws": 0}, {"momentum": 1.5}])
def test_numbers_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be above 0, draws="):
        KRD(**wrong)


def test_a_batch_without_edges_is_refused() -> None:
    with pytest.raises(KeyError, match="krd compares nodes with their neighbours"):
        made()(signals(0), signals(1), {"id": torch.arange(6), "graph": VIEW})
