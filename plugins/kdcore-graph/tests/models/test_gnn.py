from __future__ import annotations

import copy

import pytest
import torch
from made import dense, random_graph

from kdcore_graph.graph import Graph
from kdcore_graph.models.gnn import GNN

CONVS = ("sage", "gcn", "gat", "appnp")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return random_graph(60, classes=3, width=5)


def made(conv: str, **keys: object) -> GNN:
    torch.manual_seed(0)
    return GNN(classes=3, features=5, conv=conv, width=8, **keys).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("conv", CONVS)
def test_shapes(graph: Graph, conv: str) -> None:
    found = made(conv)(graph.features, graph.edges)
    assert found["logits"].shape == (60, 3)
    assert found["hidden"].shape == (60, 8)


def test_sage_is_the_mean_of_a_node_and_its_neighbours(graph: Graph) -> None:
    net = made("sage")
    matrix = dense(graph.edges, 60) + torch.eye(60)
    mean = matrix / matrix.sum(1, keepdim=True)
    first, last = net.steps[0].layer, net.steps[1]  # type: ignore[union-attr]
    hidden = (mean @ graph.features @ first.lin.weight.T + first.bias).relu()  # type: ignore[union-attr, operator]
    logits = mean @ hidden @ last.lin.weight.T + last.bias  # type: ignore[union-attr, operator]
    found = net(graph.features, graph.edges)
    assert torch.allclose(found["hidden"], hidden, atol=1e-5)
    assert torch.allclose(found["logits"], logits, atol=1e-5)


def test_gcn_is_normalised_by_both_degrees(graph: Graph) -> None:
    net = made("gcn", layers=1)
    matrix = dense(graph.edges, 60) + torch.eye(60)
    scale = matrix.sum(1).rsqrt()
    last = net.steps[0]
    expected = scale[:, None] * matrix * scale @ graph.features @ last.lin.weight.T + last.bias  # type: ignore[union-attr, operator]
    assert torch.allclose(net(graph.features, graph.edges)["logits"], expected, atol=1e-5)


def test_appnp_is_pygs(graph: Graph) -> None:
    from torch_geometric.nn import APPNP

    net = made("appnp", hops=4, teleport=0.2)
    local = net.mlp(graph.features)
    expected = APPNP(4, 0.2)(local, graph.edges)
    assert torch.allclose(net(graph.features, graph.edges)["logits"], expected, atol=1e-5)


def test_the_mean_aggregator_is_pygs(graph: Graph) -> None:
    from torch_geometric.nn import SAGEConv

    net = made("sage", aggregator="mean", layers=1)
    assert isinstance(net.steps[0], SAGEConv)
    assert torch.allclose(net(graph.features, graph.edges)["logits"], net.steps[0](graph.features, graph.edges))


@pytest.mark.parametrize("conv", [*CONVS, "mean"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_layer_by_layer_is_exact(graph: Graph, conv: str, norm: str) -> None:
    net = made("sage", aggregator="mean", norm=norm) if conv == "mean" else made(conv, norm=norm)
    whole, pieces = net(graph.features, graph.edges), net(graph.features, graph.edges, chunk=7)
    for name in ("logits", "hidden"):
        assert torch.allclose(whole[name], pieces[name], atol=1e-5), name


@pytest.mark.parametrize("conv", CONVS)
def test_sparse_features_give_the_same(graph: Graph, conv: str) -> None:
    net = made(conv)
    thin = net(graph.features.to_sparse_csr(), graph.edges)["logits"]
    assert torch.allclose(thin, net(graph.features, graph.edges)["logits"], atol=1e-5)


def test_edges_have_a_direction() -> None:
    net, features = made("sage"), torch.randn(2, 5)
    into_one = torch.tensor([[0], [1]])
    before = net(features, into_one)["logits"]
    features[1] += 1
    after = net(features, into_one)["logits"]
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_edges_are_prepared_once_and_again_for_others(graph: Graph) -> None:
    net = made("gcn")
    first = net.prepare(graph.edges, 60)
    assert net.prepare(graph.edges, 60) is first
    assert net.prepare(graph.edges.clone(), 60) is not first


def test_a_copy_is_without_the_graph(graph: Graph) -> None:
    net = made("sage")
    net(graph.features, graph.edges)
    twin = copy.deepcopy(net)
    assert twin._last is None
    assert torch.equal(twin(graph.features, graph.edges)["logits"], net(graph.features, graph.edges)["logits"])


def test_scaling_is_inside(graph: Graph) -> None:
    plain = made("sage")
    scaled = made("sage", feature_mean=[1.0] * 5, feature_std=[2.0] * 5)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    expected = plain((graph.features - 1) / 2, graph.edges)["logits"]
    assert torch.allclose(scaled(graph.features, graph.edges)["logits"], expected, atol=1e-6)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="layers=0 and hops=10: give at least 1 of each"):
        made("sage", layers=0)
    with pytest.raises(ValueError, match="width=8 cannot be divided over heads=3"):
        made("gat", heads=3)
    with pytest.raises(ValueError, match="feature_mean holds 2 numbers, and there are 5 features"):
        made("sage", feature_mean=[0.0, 1.0])
