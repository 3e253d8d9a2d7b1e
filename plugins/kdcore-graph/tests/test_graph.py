from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made import path_graph

from kdcore.errors import RunError
from kdcore_graph.graph import Graph, GraphView, both_ways, check_graph, largest_component, refuse_isolated


def refusal(graph: Graph) -> str:
    with pytest.raises(RunError) as caught:
        check_graph(graph, "g.npz")
    return str(caught.value)


def test_a_sound_graph_passes() -> None:
    graph = path_graph()
    assert check_graph(graph, "g") is graph


def test_no_nodes() -> None:
    graph = Graph(torch.empty(0, 2), torch.empty(2, 0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 2)
    assert refusal(graph) == "g.npz: the graph is empty: it has no nodes"


def test_no_edges() -> None:
    graph = replace(path_graph(4), edges=torch.empty(2, 0, dtype=torch.int64))
    assert refusal(graph) == "g.npz: the graph has 4 nodes and no edges: a GNN would see each node alone"


def test_edges_of_another_shape() -> None:
    assert refusal(replace(path_graph(), edges=torch.zeros(5, 2, dtype=torch.int64))) == (
        "g.npz: the edges have the shape (5, 2): give (2, E)"
    )


def test_an_edge_out_of_range_is_named() -> None:
    edges = torch.tensor([[0, 1, 2], [1, 6, -1]])
    assert refusal(replace(path_graph(6), edges=edges)) == (
        "g.npz: edge 1 names node 6, and nodes are numbered 0 to 5 (2 such edges)"
    )


def test_a_label_outside_the_classes_names_its_node() -> None:
    graph = replace(path_graph(3), labels=torch.tensor([0, -100, 7]), names=("a", "b", "c"))
    assert refusal(graph) == ("g.npz: node `c` has the label 7, and the classes are 0 to 1; -100 means no label")
    assert "node 0 has the label -1," in refusal(replace(path_graph(3), labels=torch.tensor([-1, 0, 1])))


def test_no_label_at_all() -> None:
    assert refusal(replace(path_graph(3), labels=torch.full((3,), -100))) == "g.npz: no node has a label"


def test_labels_of_another_length() -> None:
    assert refusal(replace(path_graph(3), labels=torch.zeros(2, dtype=torch.int64))) == (
        "g.npz: 3 nodes have features, and there are 2 labels"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_name_node_and_column(value: float) -> None:
    graph = path_graph(4)
    graph.features[2, 1] = value
    assert refusal(graph) == (
        "g.npz: the features hold NaN or infinity in 1 of 4 nodes, first column 1 of node 2: fill them or leave these "
        "nodes out"
    )
    assert "first column `age` of node `z`" in refusal(replace(graph, columns=("x", "age", "y"), names=tuple("wxzv")))


def test_features_without_columns() -> None:
    assert refusal(replace(path_graph(3), features=torch.empty(3, 0))) == (
        "g.npz: the features have the shape (3, 0): give (N, F), F above 0"
    )


def test_isolated_nodes_are_named() -> None:
    graph = replace(path_graph(8), edges=both_ways(torch.tensor([[0], [3]]), 8))
    with pytest.raises(RunError) as caught:
        refuse_isolated(graph, "g.npz")
    assert str(caught.value) == (
        "g.npz: 6 of 8 nodes have no edge: node 1, node 2, node 4, node 5, node 6, .... The graph tells nothing about "
        "them. Say `isolated: keep` in the data to take them as they are, or `largest_component: true` in the source "
        "to leave them out"
    )
    refuse_isolated(path_graph(), "g")


def test_both_ways_by_hand() -> None:
    edges = torch.tensor([[0, 0, 2, 1, 1], [1, 1, 2, 0, 2]])  # twice, a loop, backwards, once
    assert both_ways(edges, 3).tolist() == [[1, 0, 2, 1], [0, 1, 1, 2]]


def test_the_largest_component_is_renumbered() -> None:
    graph = replace(path_graph(6), edges=both_ways(torch.tensor([[0, 2, 3], [1, 3, 5]]), 6), names=tuple("abcdef"))
    found = largest_component(graph)
    assert found.names == ("c", "d", "f")
    assert torch.equal(found.features, graph.features[[2, 3, 5]])
    assert found.edges.tolist() == both_ways(torch.tensor([[0, 1], [1, 2]]), 3).tolist()


def test_a_view_is_moved_once() -> None:
    graph = path_graph()
    view = GraphView(graph.features, graph.edges)
    assert view.on(torch.device("cpu")) is view
    meta = view.on(torch.device("meta"))
    assert meta.features.device.type == meta.edges.device.type == "meta"
    assert view.on(torch.device("meta")) is meta


def test_lightning_leaves_a_view_alone() -> None:
    from lightning.fabric.utilities import move_data_to_device

    view = GraphView(path_graph().features, path_graph().edges)
    moved = move_data_to_device({"graph": view, "x": torch.zeros(1)}, torch.device("meta"))
    assert moved["graph"] is view
    assert moved["x"].device.type == "meta"


def test_a_node_is_called_by_its_name_where_it_has_one() -> None:
    assert path_graph(3).name_of(2) == "node 2"
    assert replace(path_graph(3), names=("ann", "bob", "cy")).name_of(2) == "node `cy`"


def test_a_subgraph_takes_everything_along() -> None:
    graph = replace(
        path_graph(5),
        split=torch.tensor([0, 1, 2, -1, 0], dtype=torch.int8),
        names=tuple("abcde"),
        columns=("x", "y", "z"),
        class_names=("even", "odd"),
    )
    found = graph.select(torch.tensor([False, True, True, False, True]))
    assert found.nodes == 3
    assert found.labels.tolist() == [1, 0, 0]
    assert found.edges.tolist() == [[1, 0], [0, 1]]  # 1 - 2; the edges to 3 are gone
    assert found.split is not None
    assert found.split.tolist() == [1, 2, 0]
    assert (found.names, found.columns, found.class_names) == (("b", "c", "e"), ("x", "y", "z"), ("even", "odd"))


def test_few_isolated_nodes_are_all_named() -> None:
    graph = replace(path_graph(4), edges=both_ways(torch.tensor([[0], [3]]), 4), names=tuple("abcd"))
    with pytest.raises(RunError, match=r"^g: 2 of 4 nodes have no edge: node `b`, node `c`\. The graph tells nothing"):
        refuse_isolated(graph, "g")


def test_a_view_takes_what_is_unseen_along() -> None:
    graph = path_graph()
    unseen = torch.arange(6) == 5
    view = GraphView(graph.features, graph.edges[:, :6], graph.edges, unseen, graph.features + 1)
    meta = view.on(torch.device("meta"))
    moved = (meta.features, meta.edges, meta.all_edges, meta.unseen, meta.noisy)
    assert all(part is not None and part.is_meta for part in moved)
    assert view.nodes == meta.nodes == 6
