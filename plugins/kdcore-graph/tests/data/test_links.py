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
