from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made import path_graph

from kdcore.errors import RunError
from kdcore_graph.splits import given_split, random_split, split_nodes

LABELS = torch.arange(400) % 4


def test_so_many_of_each_class() -> None:
    train, val, test = random_split(LABELS, 20, 30, seed=0)
    for part, each in ((train, 20), (val, 30), (test, 50)):
        assert torch.bincount(LABELS[part]).tolist() == [each] * 4
    assert torch.cat([train, val, test]).unique().numel() == 400


def test_a_split_is_its_seed() -> None:
    one, again, other = (random_split(LABELS, 20, 30, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_small_classes_give_a_third() -> None:
    labels = torch.tensor([0] * 100 + [1] * 9)
    parts = random_split(labels, 20, 30, seed=0)
    assert [int((labels[part] == 1).sum()) for part in parts] == [3, 3, 3]


def test_nodes_without_label_are_in_no_part() -> None:
    labels = torch.where(torch.arange(400) < 100, -100, LABELS)
    assert int(torch.cat(random_split(labels, 20, 30, seed=0)).min()) == 100


def test_a_class_of_two_is_refused() -> None:
    with pytest.raises(RunError, match=r"class 1 has 2 labelled node\(s\): three are needed"):
        random_split(torch.tensor([0] * 9 + [1] * 2), 1, 1, seed=0)


def test_transductive_has_nothing_unseen() -> None:
    parts = random_split(LABELS, 20, 30, seed=0)
    split = split_nodes(parts, 400, "transductive", 0.2, seed=0)
    assert not split.unseen.any()
    assert torch.equal(split.test, parts[2])
    assert len(split.observed) == 400


def test_inductive_and_production_hide_the_same_nodes() -> None:
    parts = random_split(LABELS, 20, 30, seed=0)
    inductive, production = (split_nodes(parts, 400, setting, 0.2, seed=0) for setting in ("inductive", "production"))
    assert torch.equal(inductive.unseen, production.unseen)
    assert int(inductive.unseen.sum()) == 40
    assert torch.equal(inductive.test, inductive.unseen.nonzero().flatten())
    assert torch.equal(production.test, parts[2])
    hidden = set(inductive.test.tolist())
    assert hidden <= set(parts[2].tolist())
    assert not hidden & set(production.observed.tolist())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing_unseen_is_refused(share: float) -> None:
    with pytest.raises(RunError, match=f"unseen={share} of 200 test nodes are"):
        split_nodes(random_split(LABELS, 20, 30, seed=0), 400, "production", share, seed=0)


def test_a_given_split_leaves_out_nodes_without_label() -> None:
    split = torch.tensor([0, 0, 1, 2, 2, -1], dtype=torch.int8)
    graph = replace(path_graph(6), split=split, labels=torch.tensor([0, -100, 1, 0, 1, 0]))
    assert [part.tolist() for part in given_split(graph)] == [[0], [2], [3, 4]]


def test_a_missing_split_is_refused() -> None:
    with pytest.raises(RunError, match="`split: given`, but this source brings no split: say `split: random`"):
        given_split(path_graph())


def test_an_empty_part_is_refused() -> None:
    graph = replace(path_graph(3), split=torch.tensor([0, 0, 2], dtype=torch.int8))
    with pytest.raises(RunError, match="the validation part of the source's split holds no labelled node"):
        given_split(graph)
