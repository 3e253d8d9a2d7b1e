from __future__ import annotations

import sys

import pytest
import torch

from kdcore.errors import RunError
from kdcore_graph.data.digits import Digits


def test_neighbours_are_like_it_and_features_are_not_clear() -> None:
    graph = Digits(neighbours=4, noise=0.6).graph
    assert (graph.nodes, graph.features.shape[1], graph.classes) == (1797, 64, 10)
    assert float((graph.labels[graph.edges[0]] == graph.labels[graph.edges[1]]).float().mean()) > 0.9
    assert float((graph.features - Digits(noise=0.0).graph.features).std()) == pytest.approx(0.6, abs=0.01)
    assert int(torch.bincount(graph.edges[1]).min()) >= 4


def test_it_is_always_the_same() -> None:
    assert torch.equal(Digits().graph.features, Digits().graph.features)


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"neighbours=0 and noise=0.6: give at least 1, and at least 0"):
        Digits(neighbours=0)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        RunError, match=r"the data `graph.digits` needs scikit-learn: pip install kdcore-graph\[digits\]"
    ):
        Digits().graph  # noqa: B018
