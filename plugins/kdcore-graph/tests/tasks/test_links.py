from __future__ import annotations

from typing import Any

import pytest
import torch
from made import random_graph

from kdcore.errors import RunError
from kdcore.testing import check_task
from kdcore_graph.graph import GraphView
from kdcore_graph.metrics.ranking import Hits
from kdcore_graph.models.links import LinkGNN, LinkMLP
from kdcore_graph.tasks.links import LinkPrediction

GRAPH = random_graph(40)
VIEW = GraphView(GRAPH.features, GRAPH.edges)


def task() -> LinkPrediction:
    made = LinkPrediction()
    made.facts = {"features": 5, **made.facts}
    return made


def batch(**more: Any) -> dict[str, Any]:
    nodes = torch.tensor([7, 3, 20])
    return {
        "nodes": nodes, "features": GRAPH.features[nodes], "pairs": torch.tensor([[0, 1], [2, 0]]), "graph": VIEW,
        "id": torch.arange(2), "labels": torch.tensor([1, 0]), **more,
    }  # fmt: skip


def test_it_keeps_what_a_task_promises() -> None:
    contexts = {"contexts": torch.tensor([[[0, 1], [0, 2]], [[1, 1], [1, 2]], [[2, 0], [2, 1]]])}
    check_task(task(), LinkMLP(features=5, width=4), batch(**contexts), metric=Hits(k=1))
    edges = {"edges": torch.tensor([[0, 1], [1, 2]])}
    once = {
        "call": "a GNN embeds all nodes once, and its decoder is asked about the pairs of each batch",
        "deploy": "a GNN needs its graph",
    }
    check_task(task(), LinkGNN(features=5, width=4), batch(**contexts, **edges), metric=Hits(k=1), skip=once)


def test_both_nets_answer_about_the_same_pairs() -> None:
    torch.manual_seed(0)
    student, teacher = LinkMLP(features=5, width=4).eval(), LinkGNN(features=5, width=4).eval().requires_grad_(False)
    with torch.no_grad():
        ours, theirs = (task().signals(net, batch(), {}) for net in (student, teacher))
        hidden = teacher(GRAPH.features, edges=GRAPH.edges)["hidden"]
        expected = teacher.decode(hidden, torch.tensor([[7, 3], [20, 7]]))
    assert torch.allclose(theirs["logits"], expected, atol=1e-6)
    assert torch.allclose(ours["logits"], student(batch()["features"], batch()["pairs"])["logits"])
    assert theirs["hidden"].shape == ours["hidden"].shape == (3, 4)


def test_contexts_are_scored_beside_the_pairs() -> None:
    net = LinkMLP(features=5, width=4).eval()
    contexts = torch.tensor([[[0, 1], [0, 2]], [[1, 1], [1, 2]], [[2, 0], [2, 1]]])
    found = task().signals(net, batch(contexts=contexts), {})
    assert found["logits"].shape == (2, 2)
    assert found["contexts"].shape == (3, 2)
    assert torch.allclose(found["contexts"], net.decode(found["hidden"], contexts)[..., 1], atol=1e-6)


def test_a_frozen_gnn_embeds_once() -> None:
    net, made, calls = LinkGNN(features=5, width=4).eval().requires_grad_(False), task(), []
    net.register_forward_pre_hook(lambda *given: calls.append(1))
    with torch.no_grad():
        made.signals(net, batch(), {})
        made.signals(net, batch(), {})
    assert len(calls) == 1


def test_a_gnn_that_trains_passes_messages_along_the_batch() -> None:
    net = LinkGNN(features=5, width=4).train()
    edges = torch.tensor([[0], [1]])
    found = task().signals(net, batch(edges=edges), {})
    assert torch.equal(found["logits"], net(batch()["features"], batch()["pairs"], edges)["logits"])


def test_an_example_suits_both() -> None:
    made = task()
    for net in (LinkMLP(features=5, width=4), LinkGNN(features=5, width=4)):
        found = made.signals(net, made.example(3), {})
        assert found["logits"].shape == (3, 2)
        assert found["contexts"].shape == (3, 4)


def test_deployed_it_takes_both_ends() -> None:
    net = LinkMLP(features=5, width=4).eval()
    answer = task().deploy(net)(GRAPH.features[[7, 20]], GRAPH.features[[3, 7]])
    logits = net(batch()["features"], batch()["pairs"])["logits"]
    assert torch.allclose(answer, logits.softmax(1)[:, 1], atol=1e-6)


def test_what_metrics_get() -> None:
    ours, theirs = {"logits": torch.zeros(2, 2)}, {"logits": torch.ones(2, 2)}
    observed = task().observe(ours, {"t": theirs}, batch())
    assert observed["preds_target"][1].tolist() == [1, 0]
    assert observed["student_teacher"][1] is theirs["logits"]
    assert set(task().observe(ours, {}, batch())) == {"preds_target"}


def test_what_is_refused() -> None:
    with pytest.raises(RunError, match="a GNN needs its graph wherever it answers"):
        task().deploy(LinkGNN(features=5, width=4))
    with pytest.raises(KeyError, match="the task reads `pairs`, the batch holds: id"):
        task().signals(LinkMLP(features=5, width=4), {"id": 1}, {})
    with pytest.raises(KeyError, match="a GNN is trained on batches with `edges`, and this one has none"):
        task().signals(LinkGNN(features=5, width=4).train(), batch(), {})
    with pytest.raises(ValueError, match="an example needs the fact `features`; known are: classes"):
        LinkPrediction().example(2)
