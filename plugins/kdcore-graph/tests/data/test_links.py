from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made import Made, path_graph, random_graph

from kdcore.errors import RunError
from kdcore_graph.data.links import Links
from kdcore_graph.graph import Graph

GRAPH = random_graph(120)
EDGES = {frozenset(pair) for pair in GRAPH.edges.T.tolist()}


def made(graph: Graph = GRAPH, seed: int = 0, **keys: Any) -> Links:
    data = Links(source=Made(graph), **{"negatives": 50, **keys})  # type: ignore[arg-type]
    data.seed = seed
    return data


def sets(pairs: torch.Tensor) -> list[frozenset[int]]:
    return [frozenset(pair) for pair in pairs.tolist()]


def test_every_edge_is_in_one_split() -> None:
    parts = made().parts
    found = [pair for part in parts.values() for pair in sets(part)]
    assert len(found) == len(set(found)) == len(EDGES)
    assert set(found) == EDGES
    assert len(parts["val"]) == round(0.05 * len(EDGES))
    assert len(parts["test"]) == round(0.1 * len(EDGES))


def test_no_message_passes_along_what_is_asked() -> None:
    data = made()
    passed = set(sets(data.view.edges.T))
    assert passed == set(sets(data.parts["train"]))


def test_training_has_as_many_strangers_as_edges_and_new_ones_each_step() -> None:
    data = made(steps=3)
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    for batch in batches:
        real, drawn = batch["pairs"][batch["labels"] == 1], batch["pairs"][batch["labels"] == 0]
        assert set(sets(real)) == set(sets(data.parts["train"]))
        assert len(drawn) == len(real)
        assert not set(sets(drawn)) & EDGES
        assert all(len(pair) == 2 for pair in sets(drawn))
    assert not torch.equal(batches[0]["pairs"], batches[1]["pairs"])


def test_a_new_epoch_draws_anew_and_a_resume_the_same() -> None:
    loader = made(steps=2).train_dataloader()
    first = [batch["pairs"] for batch in loader]
    loader.batches.set_epoch(1)
    second = [batch["pairs"] for batch in loader]
    assert not any(torch.equal(a, b) for a in first for b in second)
    again = made(steps=2).train_dataloader()
    again.load_state_dict({"epoch": 1, "batches": 1})
    (last,) = list(again)
    assert torch.equal(last["pairs"], second[1])


def test_held_out_pairs() -> None:
    data = made()
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        (batch,) = loader
        pairs = batch["nodes"][batch["pairs"]]
        assert set(sets(pairs[batch["labels"] == 1])) == set(sets(data.parts[name]))
        assert int((batch["labels"] == 0).sum()) == 50
        assert not set(sets(pairs[batch["labels"] == 0])) & EDGES
        assert torch.equal(batch["features"], GRAPH.features[batch["nodes"]])
        assert torch.equal(batch["source"], GRAPH.features[pairs[:64, 0]])


def test_contexts_are_near_and_far() -> None:
    data = made(near=3, far=2)
    contexts = next(iter(data.train_dataloader()))["contexts"]
    assert contexts.shape == (120, 5, 2)
    assert torch.equal(contexts[:, 0, 0], torch.arange(120))
    reach = torch.zeros(120, 120)
    reach[data.view.edges[1], data.view.edges[0]] = 1
    within = (torch.eye(120) + reach).matrix_power(3) > 0
    assert bool(within[contexts[:, :3, 0], contexts[:, :3, 1]].all())
    assert not bool(within[contexts[:, 3:, 0], contexts[:, 3:, 1]].all())


def test_small_batches() -> None:
    data = made(batch_size=40)
    sizes = [int((batch["labels"] == 1).sum()) for batch in data.train_dataloader()]
    assert sum(sizes) == len(data.parts["train"])
    assert max(sizes) == 40


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"validation": 0.0}, "validation=0.0, test=0.1: give shares above 0 that leave edges to train on"),
        ({"negatives": 0}, "negatives=0, steps=1 must be at least 1, near=0 and far=0 at least 0"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**keys)


def test_graphs_that_do_not_fit() -> None:
    with pytest.raises(RunError, match="made: 3 edges are too few to hold out 0 and 0 of them"):
        made(path_graph(4)).parts  # noqa: B018
    full = path_graph(4)
    full.edges = torch.combinations(torch.arange(4)).T
    with pytest.raises(RunError, match="made: hardly any two nodes are without an edge; 50 such pairs were not found"):
        made(full, validation=0.3, test=0.3).split("val")


def test_several_devices_cannot_share_all_edges() -> None:
    data = made()
    data.trainer = SimpleNamespace(world_size=2)  # type: ignore[assignment]
    with pytest.raises(RunError, match="all edges are one batch and cannot be divided over 2 devices"):
        data.train_dataloader()


def test_a_source_is_asked_for() -> None:
    from kdcore.data.digits import Digits

    with pytest.raises(ValueError, match="source=Digits gives no graph"):
        Links(source=Digits())


def test_a_split_is_its_seed_or_one_of_its_own() -> None:
    def held(**keys: Any) -> list[frozenset[int]]:
        return sets(made(**keys).parts["test"])

    assert held(seed=1) == held(seed=1)
    assert held(seed=1) != held(seed=2)
    assert held(seed=1, split_seed=5) == held(seed=2, split_seed=5)


def test_the_same_strangers_are_asked_about_each_time() -> None:
    (one,), (again,), (other,) = (made(seed=seed).val_dataloader() for seed in (0, 0, 1))
    assert torch.equal(one["pairs"], again["pairs"])
    assert not torch.equal(one["nodes"][one["pairs"]], other["nodes"][other["pairs"]])


def test_validation_and_test_have_strangers_of_their_own() -> None:
    data = made()
    (val,), (test,) = data.val_dataloader(), data.test_dataloader()
    drawn = [set(sets(one["nodes"][one["pairs"]][one["labels"] == 0])) for one in (val, test)]
    assert drawn[0] != drawn[1]


def test_loops_and_doubles_are_one_edge_or_none() -> None:
    graph = random_graph(60)
    graph.edges = torch.cat([graph.edges, graph.edges[:, :9], torch.tensor([[3, 4], [3, 4]])], 1)
    found = [pair for part in made(graph).parts.values() for pair in sets(part)]
    assert len(found) == len(set(found))
    assert all(len(pair) == 2 for pair in found)


def test_contexts_need_not_be_of_both_kinds() -> None:
    for near, far in ((2, 0), (0, 3)):
        contexts = next(iter(made(near=near, far=far).train_dataloader()))["contexts"]
        assert contexts.shape == (120, near + far, 2)
    assert "contexts" not in next(iter(made().train_dataloader()))


def test_a_walk_from_a_node_without_edges_stays() -> None:
    graph = random_graph(40)
    graph.edges = graph.edges[:, (graph.edges != 7).all(0)]
    contexts = next(iter(made(graph, near=4).train_dataloader()))["contexts"]
    assert contexts[7, :, 1].tolist() == [7] * 4


def test_what_a_model_is_built_from() -> None:
    assert made().facts == {"classes": 2, "features": 5, "nodes": 120}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"test": 0.0}, "validation=0.05, test=0.0: give shares"),
        ({"validation": 0.5, "test": 0.5}, "validation=0.5, test=0.5: give shares above 0 that leave edges"),
        ({"steps": 0}, "negatives=50, steps=0 must be at least 1"),
        ({"near": -1}, "near=-1 and far=0 at least 0"),
        ({"far": -2}, "near=0 and far=-2 at least 0"),
    ],
)
def test_other_numbers_that_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**keys)
