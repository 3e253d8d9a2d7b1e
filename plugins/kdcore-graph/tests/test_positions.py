from __future__ import annotations

import numpy as np
import pytest
import torch
from made import dense, path_graph, random_graph

from kdcore.errors import RunError
from kdcore_graph.graph import GraphView
from kdcore_graph.positions import positions_of


def test_their_products_are_the_best_approximation_of_the_closed_form() -> None:
    graph = random_graph(40)
    found = positions_of(GraphView(graph.features, graph.edges), torch.zeros(40, dtype=torch.bool), 6, 0).double()
    adjacency = dense(graph.edges, 40).double()
    degree = adjacency.sum(1)
    walk = adjacency / degree[:, None]
    total, power = torch.zeros_like(walk), torch.eye(40).double()
    for _ in range(10):
        power = power @ walk
        total += power
    matrix = (adjacency.sum() / 10 * total / degree).clamp(min=1).log()
    left, values, _ = torch.linalg.svd(matrix)
    wanted = left[:, :6] * values[:6].sqrt()
    wanted = wanted @ wanted.T
    ours = found @ found.T
    # up to one factor: positions are standardised
    assert torch.allclose(ours / ours.norm(), wanted / wanted.norm(), atol=1e-4)


def test_an_unseen_node_gets_the_mean_of_its_known_neighbours() -> None:
    graph = path_graph(8)
    unseen = torch.zeros(8, dtype=torch.bool)
    unseen[[3, 7]] = True
    seen = graph.edges[:, ~unseen[graph.edges].any(0)]
    found = positions_of(GraphView(graph.features, seen, graph.edges, unseen), unseen, 2, 0)
    assert torch.allclose(found[3], (found[2] + found[4]) / 2)
    assert torch.allclose(found[7], found[6])


def test_what_is_unseen_changes_no_known_position() -> None:
    graph = random_graph(40)
    unseen = torch.arange(40) >= 35
    seen = graph.edges[:, ~unseen[graph.edges].any(0)]
    with_edges = positions_of(GraphView(graph.features, seen, graph.edges, unseen), unseen, 4, 0)
    without = positions_of(GraphView(graph.features, seen, seen, unseen), unseen, 4, 0)
    assert torch.equal(with_edges[:35], without[:35])
    assert not torch.equal(with_edges[35:], without[35:])


def test_they_are_the_same_again() -> None:
    graph = random_graph(40)
    view = GraphView(graph.features, graph.edges)
    one, again = (positions_of(view, torch.zeros(40, dtype=torch.bool), 4, 0) for _ in range(2))
    assert np.array_equal(one.numpy(), again.numpy())


def test_what_is_refused() -> None:
    graph = path_graph(5)
    view = GraphView(graph.features, graph.edges)
    with pytest.raises(RunError, match="positions=4: a graph with 5 known nodes has at most 3"):
        positions_of(view, torch.zeros(5, dtype=torch.bool), 4, 0)
    large = GraphView(torch.zeros(20_001, 1), graph.edges)
    with pytest.raises(
        RunError, match="positions=4: the graph has 20001 nodes, and positions are made for at most 20000"
    ):
        positions_of(large, torch.zeros(20_001, dtype=torch.bool), 4, 0)


def test_an_unseen_node_that_knows_nobody_stands_nowhere() -> None:
    graph = path_graph(8)
    unseen = torch.zeros(8, dtype=torch.bool)
    unseen[[6, 7]] = True  # 7 is joined with 6 alone, which is unseen as well
    seen = graph.edges[:, ~unseen[graph.edges].any(0)]
    found = positions_of(GraphView(graph.features, seen, graph.edges, unseen), unseen, 2, 0)
    assert found[7].tolist() == [0, 0]
    assert torch.equal(found[6], found[5])


def test_known_positions_spread_by_one() -> None:
    graph = random_graph(60)
    found = positions_of(GraphView(graph.features, graph.edges), torch.zeros(60, dtype=torch.bool), 5, 0)
    assert found.std().item() == pytest.approx(1.0, rel=1e-5)
    assert found.dtype == torch.float32


def test_signs_are_fixed() -> None:
    graph = random_graph(60)
    found = positions_of(GraphView(graph.features, graph.edges), torch.zeros(60, dtype=torch.bool), 5, 0)
    largest = found.abs().argmax(0)
    assert (found[largest, torch.arange(5)] > 0).all()


@pytest.mark.parametrize("size", [0, -1])
def test_no_positions_are_refused(size: int) -> None:
    graph = path_graph(5)
    with pytest.raises(RunError, match=f"positions={size}: a graph with 5 known nodes has at most 3"):
        positions_of(GraphView(graph.features, graph.edges), torch.zeros(5, dtype=torch.bool), size, 0)
