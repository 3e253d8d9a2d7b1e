"""What is kept of a frozen net's answers, and when it is run again."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from made import random_graph
from torch import Tensor, nn

from kdcore.task import set_input_statistics
from kdcore_graph.graph import GraphView
from kdcore_graph.models.gnn import GNN
from kdcore_graph.tasks import outputs
from kdcore_graph.tasks.outputs import FrozenOutputs

GRAPH = random_graph(50)
UNSEEN = torch.arange(50) >= 45
SEEN_EDGES = GRAPH.edges[:, ~UNSEEN[GRAPH.edges].any(0)]
CPU = torch.device("cpu")


def view(**more: Any) -> GraphView:
    return GraphView(GRAPH.features, SEEN_EDGES, GRAPH.edges, UNSEEN, **more)


class Counted(nn.Module):
    """A GNN that counts, and remembers how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = GNN(classes=3, features=5, width=4)
        self.asked: list[int | None] = []
        self.eval().requires_grad_(False)

    def forward(self, features: Tensor, edges: Tensor, chunk: int | None = None) -> dict[str, Tensor]:
        self.asked.append(chunk)
        found: dict[str, Tensor] = self.net(features, edges, chunk)
        return found


@pytest.fixture
def net() -> Counted:
    return Counted()


def answers(kept: FrozenOutputs, net: nn.Module, seen: GraphView, *, unseen: bool = False) -> dict[str, Tensor]:
    with torch.no_grad():
        return kept.of(net, seen, CPU, unseen=unseen)


def test_a_frozen_net_is_asked_once_for_a_graph(net: Counted) -> None:
    kept, here = FrozenOutputs(), view()
    assert answers(kept, net, here) is answers(kept, net, here)
    assert len(net.asked) == 1


def test_another_graph_is_another_question(net: Counted) -> None:
    kept, here, there = FrozenOutputs(), view(), GraphView(GRAPH.features + 1, SEEN_EDGES)
    one, other = answers(kept, net, here), answers(kept, net, there)
    assert not torch.equal(one["logits"], other["logits"])
    answers(kept, net, here)
    assert len(net.asked) == 3  # only the last one is kept


def test_two_nets_are_kept_apart(net: Counted) -> None:
    kept, here, other = FrozenOutputs(), view(), Counted()
    with torch.no_grad():
        other.net.steps[0].layer.bias.add_(1)  # type: ignore[union-attr, operator]
    for _ in range(2):
        assert not torch.equal(answers(kept, net, here)["logits"], answers(kept, other, here)["logits"])
    assert (len(net.asked), len(other.asked)) == (1, 1)


def test_where_a_gradient_is_wanted_nothing_is_kept(net: Counted) -> None:
    kept, here = FrozenOutputs(), view()
    for _ in range(2):
        kept.of(net, here, CPU, unseen=False)
    assert len(net.asked) == 2


def test_a_weight_that_is_changed_in_place_is_noticed(net: Counted) -> None:
    kept, here = FrozenOutputs(), view()
    before = answers(kept, net, here)["logits"]
    with torch.no_grad():
        net.net.steps[1].bias.add_(1.0)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(answers(kept, net, here)["logits"], before + 1)


def test_unseen_nodes_are_asked_about_on_the_whole_graph(net: Counted) -> None:
    kept, here = FrozenOutputs(), view()
    known, asked = answers(kept, net, here), answers(kept, net, here, unseen=True)
    assert torch.equal(asked["logits"][~UNSEEN], known["logits"][~UNSEEN])
    with torch.no_grad():
        whole = net.net(GRAPH.features, GRAPH.edges)["logits"]
    assert torch.equal(asked["logits"][UNSEEN], whole[UNSEEN])
    assert len(net.asked) == 3


def test_where_nothing_is_unseen_the_whole_graph_is_not_asked(net: Counted) -> None:
    answers(FrozenOutputs(), net, GraphView(GRAPH.features, GRAPH.edges), unseen=True)
    assert len(net.asked) == 1


def test_noise_is_asked_about_beside_the_clean_features(net: Counted) -> None:
    noisy = GRAPH.features + torch.randn(GRAPH.features.shape, generator=torch.Generator().manual_seed(0))
    found = answers(FrozenOutputs(), net, view(noisy=noisy))
    with torch.no_grad():
        assert torch.equal(found["noisy"], net.net(noisy, SEEN_EDGES)["logits"])
        assert torch.equal(found["logits"], net.net(GRAPH.features, SEEN_EDGES)["logits"])


def test_a_net_sees_its_own_statistics(net: Counted) -> None:
    set_input_statistics(net, [1.0], [2.0])
    found = answers(FrozenOutputs(), net, view())
    with torch.no_grad():
        wanted = net.net((GRAPH.features - 1) / 2, SEEN_EDGES)["logits"]
    torch.testing.assert_close(found["logits"], wanted)


def test_a_large_graph_is_done_in_pieces_and_gives_the_same(net: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = answers(FrozenOutputs(), net, view())
    monkeypatch.setattr(outputs, "CHUNKED_EDGES", SEEN_EDGES.shape[1] - 1)
    monkeypatch.setattr(outputs, "CHUNK", 7)
    pieces = answers(FrozenOutputs(), net, view())
    assert net.asked == [None, 7]
    torch.testing.assert_close(pieces["logits"], whole["logits"])


def test_rows_are_picked_by_number_and_shared_signals_stay_whole(net: Counted) -> None:
    net.shared = ("hidden",)  # type: ignore[assignment]
    kept, here = FrozenOutputs(), view()
    with torch.no_grad():
        rows = kept.rows(net, here, torch.tensor([4, 1]), unseen=False)
        whole = kept.of(net, here, CPU, unseen=False)
    assert torch.equal(rows["logits"], whole["logits"][[4, 1]])
    assert rows["hidden"] is whole["hidden"]


def test_what_a_caller_adds_to_rows_is_not_kept(net: Counted) -> None:
    kept, here, nodes = FrozenOutputs(), view(), torch.tensor([2])
    with torch.no_grad():
        kept.rows(net, here, nodes, unseen=False)["more"] = torch.zeros(1)
        assert "more" not in kept.rows(net, here, nodes, unseen=False)


def test_a_net_that_is_gone_is_forgotten() -> None:
    kept = FrozenOutputs()
    net = Counted()
    answers(kept, net, view())
    assert len(kept._kept) == 1
    del net
    gc.collect()
    assert len(kept._kept) == len(kept._parts) == 0
