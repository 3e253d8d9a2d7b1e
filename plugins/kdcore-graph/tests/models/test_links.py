from __future__ import annotations

import torch
from made import random_graph

from kdcore_graph.models.links import LinkGNN, LinkMLP

GRAPH = random_graph(30)
PAIRS = torch.tensor([[0, 1], [4, 4], [2, 9]])


def test_a_score_is_the_decoder_of_the_product() -> None:
    torch.manual_seed(0)
    for net, graph in ((LinkMLP(features=5, width=4), {}), (LinkGNN(features=5, width=4), {"edges": GRAPH.edges})):
        found = net(GRAPH.features, PAIRS, **graph)
        h = found["hidden"]
        for row, (a, b) in enumerate(PAIRS.tolist()):
            assert torch.allclose(found["logits"][row, 1:], net.decoder(h[a] * h[b]), atol=1e-6)
        assert found["logits"][:, 0].tolist() == [0, 0, 0]


def test_an_edge_has_no_direction() -> None:
    net = LinkMLP(features=5, width=4)
    assert torch.equal(net(GRAPH.features, PAIRS)["logits"], net(GRAPH.features, PAIRS.flip(1))["logits"])


def test_contexts_keep_their_shape() -> None:
    hidden = torch.randn(30, 4)
    assert LinkMLP(features=5, width=4).decode(hidden, PAIRS.expand(2, 3, 2)).shape == (2, 3, 2)


def test_without_pairs_it_embeds() -> None:
    net = LinkGNN(features=5, width=4)
    assert set(net(GRAPH.features, edges=GRAPH.edges)) == {"hidden"}
    whole, pieces = net(GRAPH.features, edges=GRAPH.edges), net(GRAPH.features, edges=GRAPH.edges, chunk=7)
    assert torch.allclose(whole["hidden"], pieces["hidden"], atol=1e-5)
