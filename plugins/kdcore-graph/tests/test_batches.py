from __future__ import annotations

from typing import Any

import pytest
import torch
from made import random_graph

from kdcore.data.arrays import Columns
from kdcore_graph.data.batches import Neighbourhoods, Rows, Whole, thinned
from kdcore_graph.graph import GraphView

GRAPH = random_graph(80, degree=4)
VIEW = GraphView(GRAPH.features, GRAPH.edges)
PAIRS = set(map(tuple, GRAPH.edges.T.tolist()))


def columns(nodes: torch.Tensor) -> Columns:
    return Columns({"id": nodes, "features": GRAPH.features[nodes], "labels": GRAPH.labels[nodes]})


def rows(*nodes: int, **extra: Any) -> Rows:
    return Rows(columns(torch.tensor(nodes)), VIEW, **extra)


# ---- features


def test_mostly_zeros_become_sparse() -> None:
    eye = torch.eye(40)
    assert thinned(eye).layout == torch.sparse_csr
    assert torch.equal(thinned(eye).to_dense(), eye)


def test_a_twentieth_is_still_sparse_and_a_little_more_is_not() -> None:
    x = torch.zeros(10, 10)
    x[0, :5] = 1
    assert thinned(x).layout == torch.sparse_csr
    x[1, 0] = 1
    assert thinned(x) is x


def test_what_is_dense_or_elsewhere_stays() -> None:
    full = torch.ones(4, 4)
    assert thinned(full) is full
    meta = torch.empty(4, 4, device="meta")
    assert thinned(meta) is meta


# ---- some nodes


def test_nodes_are_fetched_by_row_beside_the_graph() -> None:
    some = rows(5, 9, 70)
    assert len(some) == 3
    batch = some.__getitems__([2, 0])
    assert batch["id"].tolist() == [70, 5]
    assert torch.equal(batch["features"], GRAPH.features[[70, 5]])
    assert batch["graph"] is VIEW


def test_what_all_batches_share_is_put_into_each() -> None:
    shared = torch.ones(2)
    assert rows(1, 2, class_weight=shared).__getitems__([0])["class_weight"] is shared


# ---- all at once


def test_the_whole_is_the_same_as_often_as_asked() -> None:
    whole = Whole(rows(3, 4, 5), torch.tensor([[0, 1], [1, 2]]), 7, torch.device("cpu"))
    assert len(whole) == 7
    one, again = whole.__getitems__([0]), whole.__getitems__([6])
    assert one.keys() == {"id", "features", "labels", "edges", "graph"}
    assert one["id"].tolist() == [3, 4, 5]
    assert one["edges"].tolist() == [[0, 1], [1, 2]]
    assert all(one[name] is again[name] for name in one)


def test_what_a_step_puts_into_the_whole_is_gone_in_the_next() -> None:
    whole = Whole(rows(3, 4), torch.tensor([[0], [1]]), 2, torch.device("cpu"))
    whole.__getitems__([0])["views"] = {}
    assert "views" not in whole.__getitems__([1])


def test_the_whole_lies_where_the_nets_are() -> None:
    batch = Whole(rows(3, 4), torch.tensor([[0], [1]]), 1, torch.device("meta")).__getitems__([0])
    assert {batch[name].device.type for name in ("id", "features", "labels", "edges")} == {"meta"}
    assert batch["graph"] is VIEW  # moved by whoever asks for it


# ---- with neighbours


def sampled(*seeds: int, fanout: tuple[int, ...] = (3, 2), seed: int = 0, **extra: Any) -> Neighbourhoods:
    return Neighbourhoods(rows(*seeds, **extra), columns(torch.arange(80)), list(fanout), seed)


def test_seeds_come_first_and_alone_have_labels() -> None:
    batch = sampled(10, 20, 30).__getitems__([2, 0])
    assert batch["id"][:2].tolist() == [30, 10]
    assert batch["mask"].tolist() == [True] * 2 + [False] * (len(batch["id"]) - 2)
    assert batch["labels"][:2].tolist() == GRAPH.labels[[30, 10]].tolist()
    assert set(batch["labels"][2:].tolist()) == {-100}
    assert len(batch["id"].unique()) == len(batch["id"]) > 2


def test_edges_join_rows_of_the_batch_as_the_graph_does() -> None:
    batch = sampled(10, 20, 30).__getitems__([0, 1, 2])
    joined = batch["id"][batch["edges"]]
    assert set(map(tuple, joined.T.tolist())) <= PAIRS
    assert torch.equal(batch["features"], GRAPH.features[batch["id"]])
    into_seeds = batch["edges"][1] < 3
    assert torch.bincount(batch["edges"][1][into_seeds], minlength=3).max() <= 3


def test_all_neighbours_of_one_hop() -> None:
    batch = sampled(10, fanout=(-1,)).__getitems__([0])
    assert set(batch["id"].tolist()) == {10} | {source for source, target in PAIRS if target == 10}


def test_the_seed_and_the_seeds_decide_what_is_sampled() -> None:
    def ids(made: Neighbourhoods, index: list[int]) -> list[int]:
        found: list[int] = made.__getitems__(index)["id"].tolist()
        return found

    seeds = (10, 20, 30, 40, 50)
    first = ids(sampled(*seeds), [0, 1, 2, 3, 4])
    assert ids(sampled(*seeds), [0, 1, 2, 3, 4]) == first
    assert ids(sampled(*seeds, seed=1), [0, 1, 2, 3, 4]) != first
    other = ids(sampled(*seeds), [4, 3, 2, 1, 0])  # as another epoch's order has it
    assert set(other) != set(first)


def test_batches_with_neighbours_share_what_all_do() -> None:
    made = sampled(10, 20, class_weight=torch.ones(3))
    assert len(made) == 2
    batch = made.__getitems__([1])
    assert batch["class_weight"].tolist() == [1, 1, 1]
    assert batch["graph"] is VIEW


@pytest.mark.parametrize("index", [[0], torch.tensor([0])])
def test_an_index_is_a_list_or_a_tensor(index: Any) -> None:
    assert sampled(10).__getitems__(index)["id"][0] == 10
