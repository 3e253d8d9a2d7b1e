from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made import Made, path_graph

from kdcore.errors import RunError
from kdcore_graph.data.source import Source
from kdcore_graph.graph import Graph, both_ways


class Counting(Made):
    """How often it was read."""

    times = 0

    def read(self) -> Graph:
        self.times += 1
        return super().read()


def two_parts() -> Graph:
    """Nodes 0 and 1, and nodes 2, 3 and 4."""
    return replace(path_graph(5), edges=both_ways(torch.tensor([[0, 2, 3], [1, 3, 4]]), 5))


def test_it_is_read_once() -> None:
    source = Counting(path_graph())
    assert source.graph is source.graph
    assert source.times == 1


def test_what_is_read_is_checked_under_its_name() -> None:
    broken = replace(path_graph(3), labels=torch.tensor([0, 9, 1]))
    with pytest.raises(RunError, match=r"^made: node 1 has the label 9, and the classes are 0 to 1; -100 means no"):
        Made(broken).graph  # noqa: B018


def test_a_source_that_cannot_read_is_named() -> None:
    class Bare(Source):
        pass

    with pytest.raises(NotImplementedError, match=r"^Bare does not implement read\(\)$"):
        Bare().graph  # noqa: B018


def test_all_components_unless_asked() -> None:
    source = Made(two_parts())
    assert source.graph.nodes == 5
    largest = Made(two_parts())
    largest.only_largest = True
    assert largest.graph.nodes == 3
    assert torch.equal(largest.graph.features, two_parts().features[2:])


def test_what_is_left_out_is_checked_all_the_same() -> None:
    graph = two_parts()
    graph.features[0, 0] = torch.nan
    source = Made(graph)
    source.only_largest = True
    with pytest.raises(RunError, match="made: the features hold NaN or infinity in 1 of 5 nodes, first column 0 of"):
        source.graph  # noqa: B018
