from __future__ import annotations

import pytest
import torch
from made import random_graph

from kdcore_graph.models.vq import VQGNN

GRAPH = random_graph(40, classes=3, width=5)


def made(codes: int = 6) -> VQGNN:
    torch.manual_seed(0)
    return VQGNN(classes=3, features=5, width=8, codes=codes).eval()


def test_the_nearest_code_is_taken() -> None:
    found = made()(GRAPH.features, GRAPH.edges)
    for i in range(40):
        distances = ((found["codebook"] - found["hidden"][i]) ** 2).sum(1)
        assert torch.allclose(-distances, found["codes"][i], atol=1e-4)
        assert torch.equal(found["quantised"][i], found["codebook"][distances.argmin()])


def test_logits_read_the_code() -> None:
    net = made()
    found = net(GRAPH.features, GRAPH.edges)
    prepared = net.prepare(GRAPH.edges, 40)
    assert torch.allclose(found["logits"], net.steps[-1](found["quantised"], *prepared), atol=1e-5)


def test_gradients_pass_the_rounding() -> None:
    net = made()
    net(GRAPH.features, GRAPH.edges)["logits"].sum().backward()
    assert float(net.steps[0].layer.lin.weight.grad.abs().sum()) > 0  # type: ignore[union-attr, operator]


def test_codes_that_nobody_uses_are_put_where_nodes_are() -> None:
    net = made(codes=20)
    with torch.no_grad():
        net.codebook.add_(1000)
    net.train()(GRAPH.features, GRAPH.edges)
    state = net.eval()(GRAPH.features, GRAPH.edges)["hidden"]
    near = torch.cdist(net.codebook, state).min(1).values
    assert int((near < 1e-3).sum()) >= 19


def test_eval_mode_leaves_the_codes_alone() -> None:
    net = made(codes=20)
    before = net.codebook.detach().clone()
    net(GRAPH.features, GRAPH.edges)
    assert torch.equal(net.codebook, before)


def test_layer_by_layer_is_exact() -> None:
    net = made()
    whole, pieces = net(GRAPH.features, GRAPH.edges), net(GRAPH.features, GRAPH.edges, chunk=9)
    assert torch.allclose(whole["logits"], pieces["logits"], atol=1e-5)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="layers=1 and codes=6: give at least 2 of each"):
        VQGNN(classes=3, features=5, layers=1, codes=6)
