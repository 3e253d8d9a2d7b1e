from __future__ import annotations

import pytest
import torch
from made import path_graph, random_graph

from kdcore_graph.graph import Graph
from kdcore_graph.sampling import NeighbourSampler, by_target, chunks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs_of(edges: torch.Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, edges.T.tolist()))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return random_graph(200, degree=6)


def test_rows_by_hand() -> None:
    rows = by_target(torch.tensor([[2, 0, 1], [0, 2, 0]]), 3)
    assert rows.starts.tolist() == [0, 2, 2, 3]
    assert rows.sources.tolist() == [2, 1, 0]
    assert rows.order is not None
    assert rows.order.tolist() == [0, 2, 1]


def test_sorted_edges_are_not_copied(graph: Graph) -> None:
    rows = by_target(graph.edges, graph.nodes)
    assert rows.order is None
    assert rows.sources.data_ptr() == graph.edges[0].data_ptr()


def test_all_neighbours_is_the_whole_neighbourhood() -> None:
    graph = path_graph(7)
    found = NeighbourSampler(by_target(graph.edges, 7)).sample(torch.tensor([3]), [-1, -1], generator())
    assert found.nodes.tolist() == [3, 2, 4, 1, 5]
    assert pairs_of(found.nodes[found.edges]) == {(2, 3), (4, 3), (1, 2), (3, 2), (3, 4), (5, 4)}


def test_what_is_sampled_is_in_the_graph(graph: Graph) -> None:
    seeds = torch.tensor([5, 9, 77])
    found = NeighbourSampler(by_target(graph.edges, graph.nodes)).sample(seeds, [3, 2], generator())
    assert found.nodes[:3].tolist() == seeds.tolist()
    assert len(found.nodes.unique()) == len(found.nodes)
    assert pairs_of(found.nodes[found.edges]) <= pairs_of(graph.edges)


def test_no_neighbour_twice_and_never_too_many(graph: Graph) -> None:
    degree = torch.bincount(graph.edges[1], minlength=graph.nodes)
    seeds = torch.arange(graph.nodes)
    sampler = NeighbourSampler(by_target(graph.edges, graph.nodes))
    for fanout in (1, 3, 5, 30):
        found = sampler.sample(seeds, [fanout], generator(fanout))
        assert len(pairs_of(found.edges)) == found.edges.shape[1]
        assert torch.equal(torch.bincount(found.edges[1], minlength=graph.nodes), degree.clamp(max=fanout))


def test_every_neighbour_is_as_likely() -> None:
    star = torch.stack([torch.arange(1, 9), torch.zeros(8, dtype=torch.int64)])
    sampler = NeighbourSampler(by_target(star, 9))
    counts = torch.zeros(9)
    draws = generator()
    for _ in range(1500):
        counts[sampler.sample(torch.tensor([0]), [3], draws).nodes] += 1
    assert counts[0] == 1500
    assert (counts[1:] / 1500 - 3 / 8).abs().max() < 0.05


def test_the_generator_decides(graph: Graph) -> None:
    sampler, seeds = NeighbourSampler(by_target(graph.edges, graph.nodes)), torch.arange(20)
    one, again, other = (sampler.sample(seeds, [2, 2], generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.nodes, again.nodes)
    assert torch.equal(one.edges, again.edges)
    assert not torch.equal(one.edges, other.edges) or not torch.equal(one.nodes, other.nodes)


def test_a_node_without_neighbours() -> None:
    sampler = NeighbourSampler(by_target(torch.tensor([[0], [1]]), 3))
    found = sampler.sample(torch.tensor([2]), [4, 4], generator())
    assert found.nodes.tolist() == [2]
    assert found.edges.shape == (2, 0)


@pytest.mark.parametrize("size", [1, 7, 200, 1000])
def test_chunks_hold_every_edge_once(graph: Graph, size: int) -> None:
    shuffled = graph.edges[:, torch.randperm(graph.edges.shape[1], generator=generator())]
    seen = []
    for piece in chunks(by_target(shuffled, graph.nodes), size):
        own = piece.targets.stop - piece.targets.start
        assert piece.nodes[:own].tolist() == list(range(piece.targets.start, piece.targets.stop))
        assert bool((piece.edges[1] < own).all())
        assert torch.equal(piece.nodes[piece.edges], shuffled[:, piece.which])
        seen.append(piece.which)
    assert torch.equal(torch.cat(seen).sort().values, torch.arange(graph.edges.shape[1]))
