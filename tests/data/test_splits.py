"""Orders of which every prefix is fair to the classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdcore.data.splits import keep_labels, stratified_order
from kdcore.signals import IGNORE


def imbalanced() -> Tensor:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    return labels[torch.randperm(100, generator=torch.Generator().manual_seed(3))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cut", [1, 7, 10, 37, 50, 99, 100])
def test_each_prefix_holds_the_classes_in_proportion(seed: int, cut: int) -> None:
    labels = imbalanced()
    counts = torch.bincount(labels[stratified_order(labels, seed)[:cut]], minlength=3)
    assert (counts - cut * torch.tensor([0.6, 0.3, 0.1])).abs().max() <= 1


def test_an_order_holds_each_row_once_and_depends_on_the_seed() -> None:
    labels = imbalanced()
    orders = [tuple(stratified_order(labels, seed).tolist()) for seed in range(3)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len(set(orders)) == 3
    assert tuple(stratified_order(labels, 0).tolist()) == orders[0]


def test_the_split_of_a_class_is_not_in_the_order_of_its_rows() -> None:
    order = stratified_order(torch.zeros(1000, dtype=torch.int64), 0).double()
    assert torch.corrcoef(torch.stack([order, torch.arange(1000.0).double()]))[0, 1].abs() < 0.1


@pytest.mark.parametrize(
    ("keep", "expected"), [(3, [1, 1, 1]), (9, [3, 3, 3]), (30, [10, 10, 10]), (40, [15, 15, 10]), (100, [60, 30, 10])]
)
def test_kept_labels_are_spread_evenly_and_the_others_are_hidden(keep: int, expected: list[int]) -> None:
    labels = imbalanced()
    kept = keep_labels(labels, keep, seed=1)
    assert torch.bincount(kept[kept != IGNORE], minlength=3).tolist() == expected
    assert torch.equal(kept[kept != IGNORE], labels[kept != IGNORE])
    assert torch.equal(labels, imbalanced()), "the labels that were given are left alone"


@pytest.mark.parametrize("keep", [4, 5, 8])
def test_the_odd_label_does_not_always_go_to_the_first_class(keep: int) -> None:
    counts = torch.stack(
        [torch.bincount((k := keep_labels(imbalanced(), keep, seed))[k != IGNORE], minlength=3) for seed in range(20)]
    )
    assert (counts.sum(1) == keep).all()
    assert (counts.max(1).values - counts.min(1).values == 1).all()
    assert len(torch.unique(counts, dim=0)) == 3


def test_more_labels_include_the_fewer_and_seeds_differ() -> None:
    labels = imbalanced()
    few, more = (keep_labels(labels, keep, seed=2) != IGNORE for keep in (10, 25))
    assert (few & ~more).sum() == 0
    assert not torch.equal(few, keep_labels(labels, 10, seed=3) != IGNORE)


def test_labels_that_were_missing_already_are_not_chosen() -> None:
    labels = imbalanced()
    labels[:50] = IGNORE
    kept = keep_labels(labels, 20, seed=0)
    assert int((kept != IGNORE).sum()) == 20
    assert (kept[:50] == IGNORE).all()


@pytest.mark.parametrize("keep", [0, 2, 101])
def test_too_few_or_too_many_labels_are_refused(keep: int) -> None:
    with pytest.raises(ValueError, match=rf"labels={keep}: give from 3 \(one for each class\) to 100 "):
        keep_labels(imbalanced(), keep, seed=0)
