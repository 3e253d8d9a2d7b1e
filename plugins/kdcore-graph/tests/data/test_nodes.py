from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made import Made, path_graph, random_graph

from kdcore.data.base import Treatment
from kdcore.data.digits import Digits as CoreDigits
from kdcore.errors import RunError
from kdcore.signals import IGNORE
from kdcore_graph.data.nodes import Nodes
from kdcore_graph.graph import both_ways

GRAPH = random_graph(120)


def made(graph: Any = None, seed: int = 0, **keys: Any) -> Nodes:
    keys = {"train_per_class": 5, "val_per_class": 5, **keys}
    data = Nodes(source=Made(GRAPH if graph is None else graph), **keys)  # type: ignore[arg-type]
    data.seed = seed
    return data


def whole(data: Nodes) -> dict[str, Any]:
    return next(iter(data.train_dataloader()))


def test_a_full_batch_holds_all_observed_nodes_and_the_labels_of_the_training_nodes_alone() -> None:
    data = made()
    batch = whole(data)
    assert torch.equal(batch["id"], torch.arange(120))
    assert torch.equal(batch["features"], GRAPH.features)
    known = (batch["labels"] != IGNORE).nonzero().flatten()
    assert torch.equal(known, data.parts.train)
    assert torch.equal(batch["labels"][known], GRAPH.labels[known])
    assert torch.equal(batch["edges"], GRAPH.edges)


def test_an_epoch_is_so_many_equal_batches_without_a_copy() -> None:
    batches = list(made(steps=3).train_dataloader())
    assert len(batches) == 3
    assert all(batch["features"] is batches[0]["features"] for batch in batches)
    assert batches[0] is not batches[1]


@pytest.mark.parametrize("setting", ["inductive", "production"])
def test_nothing_unseen_leaks_into_training(setting: str) -> None:
    data = made(setting=setting)
    unseen = data.parts.unseen
    batch = whole(data)
    assert not unseen[batch["id"]].any()
    ends = batch["id"][batch["edges"]]
    assert not unseen[ends].any()
    inside = GRAPH.edges[:, ~unseen[GRAPH.edges].any(0)]
    assert torch.equal(ends, inside)
    assert not unseen[data.view.edges].any()
    for loader in (data.val_dataloader(),):
        for val in loader:
            assert not unseen[val["id"]].any()
            assert "unseen" not in val


def test_the_test_asks_about_what_the_setting_says() -> None:
    for setting, share in (("transductive", 0.0), ("inductive", 1.0), ("production", 0.2)):
        data = made(setting=setting)
        (batch,) = data.test_dataloader()
        asked = batch.get("unseen", torch.zeros(len(batch["id"]), dtype=torch.bool))
        assert float(asked.float().mean()) == pytest.approx(share, abs=0.01), setting
        assert torch.equal(batch["labels"], GRAPH.labels[batch["id"]])
        assert torch.equal(batch["features"], GRAPH.features[batch["id"]])


def test_labelled_nodes_alone() -> None:
    data = made(nodes="labelled")
    batch = whole(data)
    assert torch.equal(batch["id"], data.parts.train)
    assert bool((batch["labels"] >= 0).all())


def test_small_batches_are_in_a_new_order_each_epoch() -> None:
    loader = made(batch_size=50).train_dataloader()
    first = [batch["id"] for batch in loader]
    assert [len(ids) for ids in first] == [50, 50, 20]
    assert torch.equal(torch.cat(first).sort().values, torch.arange(120))
    loader.batches.set_epoch(1)
    assert not torch.equal(torch.cat([batch["id"] for batch in loader]), torch.cat(first))


def test_small_batches_are_of_the_nodes_that_a_table_holds() -> None:
    data = made(batch_size=3)
    table = {"id": torch.tensor([5, 90, 17, 200]), "code": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    data.treatment = Treatment(stage="pick", table=lambda: table)
    batches = list(data.train_dataloader())
    found = {int(row): float(code) for batch in batches for row, code in zip(batch["id"], batch["code"], strict=True)}
    assert found == {5: 1.0, 17: 3.0, 90: 2.0}
    assert all(batch["graph"] is data.view for batch in batches)
    assert torch.equal(torch.cat([batch["id"] for batch in data.val_dataloader()]), data.parts.val)


def test_nodes_are_validated_on_in_large_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcore_graph.data.nodes.EVALUATION_BATCH", 8)
    assert [len(batch["id"]) for batch in made(batch_size=3).val_dataloader()] == [8, 7]
    assert [len(batch["id"]) for batch in made(batch_size=12).val_dataloader()] == [12, 3]


def test_sampled_neighbours_stand_behind_the_batch_and_do_not_count() -> None:
    data = made(batch_size=10, fanout=[2, 2], setting="production")
    for batch in data.train_dataloader():
        seeds = int(batch["mask"].sum())
        assert bool(batch["mask"][:seeds].all())
        assert bool((batch["labels"][seeds:] == IGNORE).all())
        ends = batch["id"][batch["edges"]]
        known = set(map(tuple, data.view.edges.T.tolist()))
        assert set(map(tuple, ends.T.tolist())) <= known
        assert not data.parts.unseen[batch["id"]].any()


def test_sampling_repeats() -> None:
    one, again = (list(made(batch_size=10, fanout=[2]).train_dataloader()) for _ in range(2))
    assert all(torch.equal(a["id"], b["id"]) for a, b in zip(one, again, strict=True))


def test_the_seed_draws_the_split_unless_it_is_fixed() -> None:
    assert not torch.equal(made(seed=0).parts.train, made(seed=1).parts.train)
    assert torch.equal(made(seed=0, split_seed=3).parts.train, made(seed=1, split_seed=3).parts.train)


def test_scaling_knows_observed_nodes_alone() -> None:
    data = made(setting="inductive", scale="standard")
    observed = GRAPH.features[~data.parts.unseen]
    assert torch.allclose(torch.tensor(data.facts["feature_mean"]), observed.mean(0))
    assert torch.allclose(torch.tensor(data.facts["feature_std"]), observed.std(0))
    flat = random_graph(120)
    flat.features[:, 0] = 3
    assert made(flat, scale="standard").facts["feature_std"][0] == 1


def test_class_weights_balance() -> None:
    graph = random_graph(120)
    graph.labels[:] = (torch.arange(120) < 20).long()
    graph.classes = 2
    data = made(graph, train_per_class=20, class_weights="balanced")
    batch = whole(data)
    labelled = batch["labels"] != IGNORE
    counts = torch.bincount(batch["labels"][labelled])
    for label in range(2):
        weights = batch["weight"][batch["labels"] == label]
        assert float(weights[0]) == pytest.approx(float(counts.sum() / (2 * counts[label])))
    assert bool((batch["weight"][~labelled] == 1).all())


def test_positions_and_noise() -> None:
    data = made(positions=4, noise=0.3)
    assert data.facts["positions"] == 4
    assert whole(data)["positions"].shape == (120, 4)
    assert "noisy" not in whole(data)
    (val,) = data.val_dataloader()
    assert float((val["noisy"] - 0.7 * val["features"]).std()) == pytest.approx(0.3, abs=0.1)


def test_thin_features_become_sparse_and_others_do_not() -> None:
    thin = random_graph(120, width=50)
    thin.features *= torch.rand(120, 50, generator=torch.Generator().manual_seed(0)) < 0.02
    assert whole(made(thin))["features"].layout == torch.sparse_csr
    assert whole(made())["features"].layout == torch.strided


def test_several_devices_cannot_share_the_whole_graph() -> None:
    data = made()
    data.trainer = SimpleNamespace(world_size=2)  # type: ignore[assignment]
    with pytest.raises(
        RunError, match=r"the whole graph is one batch and cannot be divided over 2 devices: set `data.batch_size`"
    ):
        data.train_dataloader()


def test_isolated_nodes_are_refused_unless_kept() -> None:
    graph = path_graph(60)
    graph.edges = both_ways(graph.edges[:, (graph.edges != 7).all(0)], 60)
    with pytest.raises(RunError, match="made: 1 of 60 nodes have no edge: node 7"):
        made(graph).graph  # noqa: B018
    assert made(graph, isolated="keep").graph is graph


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train_per_class": 0}, "train_per_class=0, val_per_class=5, steps=1: give 1 or more"),
        ({"steps": 0}, "steps=0: give 1 or more"),
        ({"fanout": [5]}, r"fanout=\[5\] samples neighbours around a batch: give a `batch_size` too"),
        ({"noise": 1.5}, "noise=1.5 is a share from 0 to 1, positions=0 a number of 0 or more"),
        ({"batch_size": 0}, "batch_size=0: give at least 1"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**keys)


def test_data_without_a_graph_is_no_source() -> None:
    with pytest.raises(ValueError, match=r"source=Digits gives no graph: use one such as graph.npz or graph.digits"):
        Nodes(source=CoreDigits())
