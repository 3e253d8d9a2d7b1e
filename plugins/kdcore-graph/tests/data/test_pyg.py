from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.errors import RunError
from kdcore_graph.data.pyg import Ogb, Pyg, from_ogb

FAKE = {"num_graphs": 1, "avg_num_nodes": 60, "avg_degree": 3, "num_channels": 4, "num_classes": 3, "task": "node"}


def test_any_data_set_by_name() -> None:
    graph = Pyg(name="FakeDataset", options=FAKE).graph
    assert graph.features.shape[1] == 4
    assert graph.classes <= 3
    assert graph.edges.shape[0] == 2


def test_names_that_are_none() -> None:
    with pytest.raises(
        RunError, match=r"torch_geometric.datasets has no data set `FakeDatset`: did you mean `FakeDataset`\?"
    ):
        Pyg(name="FakeDatset").graph  # noqa: B018
    with pytest.raises(RunError, match="has no data set `os`"):
        Pyg(name="os").graph  # noqa: B018


def test_options_it_does_not_know() -> None:
    with pytest.raises(RunError, match=r"FakeDataset\(colour='red'\): .*; write its arguments under `options`"):
        Pyg(name="FakeDataset", options={"colour": "red"}).graph  # noqa: B018


def test_one_label_a_graph_is_not_ours() -> None:
    with pytest.raises(RunError, match="there are 1 labels"):
        Pyg(name="FakeDataset", options={**FAKE, "task": "graph"}).graph  # noqa: B018


class Reader:
    """As ogb's library-agnostic readers answer."""

    def __init__(self, labels: Any, features: Any = True) -> None:
        x = np.arange(8, dtype=np.float32).reshape(4, 2) if features is True else None
        self._graph = {"edge_index": np.array([[0, 1, 2], [1, 2, 3]]), "node_feat": x, "num_nodes": 4}
        self._labels = labels

    def __getitem__(self, index: int) -> Any:
        return self._graph if self._labels is None else (self._graph, self._labels)

    def get_idx_split(self) -> dict[str, Any]:
        return {"train": np.array([0, 1]), "valid": np.array([2]), "test": np.array([3])}


def test_an_ogb_node_set() -> None:
    graph = from_ogb(Reader(np.array([[0], [1], [2], [1]])), "ogbn-toy")
    assert graph.labels.tolist() == [0, 1, 2, 1]
    assert graph.split is not None
    assert graph.split.tolist() == [0, 0, 1, 2]
    assert graph.edges.tolist() == [[0, 1, 2], [1, 2, 3]]


def test_an_ogb_link_set_has_no_labels() -> None:
    graph = from_ogb(Reader(None), "ogbl-toy")
    assert graph.classes == 1
    assert graph.split is None


def test_ogb_sets_that_do_not_fit() -> None:
    with pytest.raises(RunError, match="ogbn-toy: a node has 3 labels, and this task takes one"):
        from_ogb(Reader(np.zeros((4, 3), int)), "ogbn-toy")
    with pytest.raises(RunError, match="ogbn-toy: the nodes have no features, which is all that an MLP sees"):
        from_ogb(Reader(np.zeros((4, 1), int), features=None), "ogbn-toy")


def test_without_ogb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ogb.nodeproppred", None)
    with pytest.raises(RunError, match=r"the data `graph.ogb` needs ogb: pip install kdcore-graph\[ogb\]"):
        Ogb(name="ogbn-arxiv").graph  # noqa: B018


def test_its_reader_is_ogbs(monkeypatch: pytest.MonkeyPatch) -> None:
    def reader(name: str, root: str) -> Reader:
        assert (name, root) == ("ogbn-toy", "data")
        return Reader(np.array([[0], [1], [0], [1]]))

    monkeypatch.setitem(sys.modules, "ogb.nodeproppred", SimpleNamespace(NodePropPredDataset=reader))
    assert Ogb(name="ogbn-toy").graph.classes == 2


class Data:
    """A graph as PyG holds one, with what a test says."""

    def __init__(self, **changes: Any) -> None:
        ring = torch.arange(4)
        self.x = torch.eye(4, dtype=torch.float64)
        self.y = torch.tensor([0, 1, 2, 1], dtype=torch.int32)
        self.edge_index = torch.stack([ring, (ring + 1) % 4])
        vars(self).update(changes)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Makes `FakeDataset` give another graph: what is put in here."""
    from torch_geometric import datasets
    from torch_geometric.data import Dataset

    given: dict[str, Any] = {}

    class Offered(Dataset):  # type: ignore[misc]
        def __init__(self) -> None: ...

        def __getitem__(self, index: int) -> Data:
            return Data(**given)

    monkeypatch.setattr(datasets, "FakeDataset", Offered)
    return given


def test_numbers_become_those_of_the_core(offered: dict[str, Any]) -> None:
    graph = Pyg(name="FakeDataset").graph
    assert (graph.features.dtype, graph.labels.dtype, graph.edges.dtype) == (torch.float32, torch.int64, torch.int64)
    assert graph.classes == 3
    assert graph.split is None


def test_masks_are_the_split_it_brings(offered: dict[str, Any]) -> None:
    offered |= {f"{name}_mask": torch.arange(4) == at for at, name in enumerate(("train", "val", "test"))}
    graph = Pyg(name="FakeDataset").graph
    assert graph.split is not None
    assert graph.split.tolist() == [0, 1, 2, -1]


def test_masks_of_many_splits_are_none(offered: dict[str, Any]) -> None:
    offered["train_mask"] = torch.ones(4, 10, dtype=torch.bool)
    assert Pyg(name="FakeDataset").graph.split is None


@pytest.mark.parametrize(
    ("changes", "missing"),
    [({"x": None}, "x"), ({"y": None}, "y"), ({"y": torch.zeros(4, 2)}, "single label per node")],
)
def test_nothing_to_learn(offered: dict[str, Any], changes: dict[str, Any], missing: str) -> None:
    offered |= changes
    with pytest.raises(RunError, match=rf"^FakeDataset\(\) has no {missing}: nothing to learn$"):
        Pyg(name="FakeDataset").graph  # noqa: B018


def test_its_largest_component(offered: dict[str, Any]) -> None:
    offered["edge_index"] = torch.tensor([[0, 1], [1, 2]])
    assert Pyg(name="FakeDataset").graph.nodes == 4
    assert Pyg(name="FakeDataset", largest_component=True).graph.nodes == 3


def test_a_link_set_has_a_reader_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def reader(name: str, root: str) -> Reader:
        assert (name, root) == ("ogbl-toy", str(tmp_path))
        return Reader(None)

    monkeypatch.setitem(sys.modules, "ogb.linkproppred", SimpleNamespace(LinkPropPredDataset=reader))
    graph = Ogb(name="ogbl-toy", root=str(tmp_path)).graph
    assert graph.labels.tolist() == [0, 0, 0, 0]
