from __future__ import annotations

from typing import Any

import pytest
import torch
from made import random_graph

from kdcore.errors import RunError
from kdcore.models import mlp as core
from kdcore.task import set_input_statistics
from kdcore.testing import check_task, samples
from kdcore_graph.graph import GraphView
from kdcore_graph.models.gnn import GNN
from kdcore_graph.models.mlp import MLP
from kdcore_graph.models.vq import VQGNN
from kdcore_graph.tasks.nodes import NodeClassification

GRAPH = random_graph(40)
UNSEEN = torch.arange(40) >= 34
SEEN_EDGES = GRAPH.edges[:, ~UNSEEN[GRAPH.edges].any(0)]
VIEW = GraphView(GRAPH.features, SEEN_EDGES, GRAPH.edges, UNSEEN)


def task(**facts: Any) -> NodeClassification:
    made = NodeClassification(classes=3)
    made.facts = {"features": 5, **facts, **made.facts}
    return made


def frozen(**keys: Any) -> GNN:
    torch.manual_seed(0)
    return GNN(classes=3, features=5, width=8, **keys).eval().requires_grad_(False)


def batch(ids: list[int], **more: Any) -> dict[str, Any]:
    index = torch.tensor(ids)
    return {"id": index, "features": GRAPH.features[index], "labels": GRAPH.labels[index], "graph": VIEW, **more}


def test_it_keeps_what_a_task_promises() -> None:
    made = NodeClassification(classes=samples.CLASSES)
    made.facts |= {"features": samples.WIDTH}  # as the data completes them
    given, sizes = samples.nodes()["batch"], {"classes": samples.CLASSES, "features": samples.WIDTH, "width": 4}
    check_task(made, MLP(**sizes), given)
    check_task(made, samples.vector_net(), given)  # of the core: its signals are the logits alone
    view = GraphView(given["features"], given["edges"])
    check_task(made, GNN(**sizes), {**given, "graph": view}, skip={"deploy": "a GNN needs its graph"})


def test_a_frozen_gnn_is_run_once_and_picked_by_id() -> None:
    net, calls = frozen(), []
    net.register_forward_pre_hook(lambda *given: calls.append(1))
    whole = net(GRAPH.features, SEEN_EDGES)["logits"]
    calls.clear()
    made = task()
    with torch.no_grad():
        for ids in ([3, 1], [7], [3]):
            assert torch.equal(made.signals(net, batch(ids), {})["logits"], whole[ids])
    assert len(calls) == 1


def test_the_same_full_batch_is_picked_once_and_another_anew() -> None:
    net, made, ids = frozen(), task(), torch.tensor([3, 1])
    with torch.no_grad():
        first, again = (made.signals(net, {**batch([3, 1]), "id": ids}, {}) for _ in range(2))
        other = made.signals(net, batch([5]), {})
    assert first["logits"] is again["logits"]
    assert first is not again
    assert torch.equal(other["logits"], net(GRAPH.features, SEEN_EDGES)["logits"][[5]])


def test_other_weights_are_noticed() -> None:
    net, made = frozen(), task()
    with torch.no_grad():
        before = made.signals(net, batch([1]), {})["logits"]
        net.steps[0].layer.bias.add_(1)  # type: ignore[union-attr, operator]
        assert not torch.equal(made.signals(net, batch([1]), {})["logits"], before)


def test_a_net_that_learns_is_run_each_time() -> None:
    net, made, calls = frozen().requires_grad_(True), task(), []
    net.register_forward_pre_hook(lambda *given: calls.append(1))
    with torch.no_grad():
        made.signals(net, batch([1]), {})
        made.signals(net, batch([1]), {})
    assert len(calls) == 2


def test_a_tap_sees_the_net_run() -> None:
    net, made, seen = frozen(), task(), []
    with torch.no_grad():
        made.signals(net, batch([1]), {})
        net.steps[0].register_forward_hook(lambda module, given, found: seen.append(found))
        made.signals(net, batch([1]), {})
    assert len(seen) == 1


def test_unseen_nodes_are_answered_with_their_edges_and_seen_ones_without() -> None:
    net = frozen()
    with torch.no_grad():
        found = task().signals(net, batch([0, 33, 36], unseen=UNSEEN[[0, 33, 36]]), {})["logits"]
        known, whole = (net(GRAPH.features, edges)["logits"] for edges in (SEEN_EDGES, GRAPH.edges))
    assert torch.equal(found[:2], known[[0, 33]])
    assert torch.equal(found[2], whole[36])
    assert not torch.equal(found[2], known[36])


def test_signals_without_a_row_for_each_node_are_whole() -> None:
    torch.manual_seed(0)
    net = VQGNN(classes=3, features=5, width=8, codes=6).eval().requires_grad_(False)
    with torch.no_grad():
        found = task().signals(net, batch([0, 36], unseen=UNSEEN[[0, 36]]), {})
    assert found["codebook"].shape == (6, 8)
    assert found["codes"].shape == (2, 6)


def test_a_gnn_that_trains_sees_the_edges_of_its_batch() -> None:
    net = frozen().train()
    edges = torch.tensor([[0], [1]])
    found = task().signals(net, batch([4, 9], edges=edges), {})["logits"]
    assert torch.equal(found, net(GRAPH.features[[4, 9]], edges)["logits"])


def test_an_mlp_sees_features_alone() -> None:
    net = MLP(classes=3, features=5, width=4).eval()
    bare = {"features": GRAPH.features[:3]}
    assert torch.equal(task().signals(net, bare, {})["logits"], net(GRAPH.features[:3])["logits"])


def test_the_cores_mlp_serves_too_with_its_own_statistics() -> None:
    net = core.MLP(classes=3, features=5, hidden=[4]).eval()
    set_input_statistics(net, [1.0], [2.0])
    found = task().signals(net, batch([1, 2]), {})["logits"]
    assert torch.allclose(found, net((GRAPH.features[[1, 2]] - 1) / 2))


def test_noise_is_measured_in_eval_mode_alone() -> None:
    view = GraphView(GRAPH.features, SEEN_EDGES, GRAPH.edges, UNSEEN, noisy=GRAPH.features + 1)
    given = {**batch([1, 36], unseen=UNSEEN[[1, 36]]), "graph": view, "noisy": GRAPH.features[[1, 36]] + 1}
    student, teacher = MLP(classes=3, features=5, width=4).eval(), frozen()
    with torch.no_grad():
        ours = task().signals(student, given, {})
        assert torch.equal(ours["noisy"], student(given["noisy"])["logits"])
        theirs = task().signals(teacher, given, {})["noisy"]
        assert torch.allclose(theirs[0], teacher(GRAPH.features + 1, SEEN_EDGES)["logits"][1])
        assert torch.allclose(theirs[1], teacher(GRAPH.features + 1, GRAPH.edges)["logits"][36])
        assert "noisy" not in task().signals(student.train(), given, {})
    assert task().observe(ours, {}, given)["noisy"][0] is ours["noisy"]


def test_what_metrics_get() -> None:
    student, teacher = {"logits": torch.zeros(2, 3)}, {"logits": torch.ones(2, 3)}
    observed = task().observe(student, {"teacher": teacher}, batch([1, 36], unseen=UNSEEN[[1, 36]]))
    assert observed["preds_target"][1].tolist() == GRAPH.labels[[1, 36]].tolist()
    assert observed["preds_target_unseen"][2].tolist() == [False, True]
    assert observed["student_teacher"] == (student["logits"], teacher["logits"])
    assert task().observe(student, {}, batch([1, 2]))["preds_target_unseen"][2].tolist() == [False, False]
    assert "student_teacher" not in task().observe(student, {}, batch([1, 2]))


def test_an_example_suits_every_net() -> None:
    made = task(positions=2)
    example = made.example(4)
    nets = (frozen(), MLP(classes=3, features=5, use_positions=True, positions=2), frozen(conv="gat"))
    for net in nets:
        assert made.signals(net, example, {})["logits"].shape == (4, 3)
    assert torch.equal(made.example(4)["features"], example["features"])


def test_deployed_it_answers_with_probabilities() -> None:
    net = MLP(classes=3, features=5, feature_mean=[1.0] * 5, feature_std=[2.0] * 5)
    answer = task().deploy(net)
    assert torch.allclose(answer(GRAPH.features), net(GRAPH.features)["logits"].softmax(1))
    placed = MLP(classes=3, features=5, use_positions=True, positions=2)
    features, positions = torch.rand(2, 5), torch.rand(2, 2)
    assert torch.allclose(task().deploy(placed)(features, positions), placed(features, positions)["logits"].softmax(1))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="classes=1: there must be at least two to tell apart"):
        NodeClassification(classes=1)
    with pytest.raises(RunError, match="a GNN needs its graph wherever it answers: export the student"):
        task().deploy(frozen())
    with pytest.raises(KeyError, match="the task reads `features`, the batch holds: id"):
        task().signals(frozen(), {"id": torch.arange(2)}, {})
    with pytest.raises(
        KeyError, match=r"a GNN is trained on batches with `edges`: leave out `data.batch_size`, or add"
    ):
        task().signals(frozen().train(), batch([1]), {})
    with pytest.raises(ValueError, match="the model gives 4 classes, the task has 3: set `classes: 3`"):
        task().signals(MLP(classes=4, features=5), batch([1, 2]), {})
    with pytest.raises(ValueError, match="an example needs the fact `features`; known are: classes"):
        NodeClassification(classes=3).example(2)


def test_chance() -> None:
    assert task().chance() == pytest.approx(1 / 3)
