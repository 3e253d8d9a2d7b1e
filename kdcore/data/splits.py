"""Which samples go where: orders of which every prefix is fair to the classes. Pure functions, stable for ever."""

from __future__ import annotations

import torch
from torch import Tensor

from kdcore.data.seeds import sample_seeds
from kdcore.signals import IGNORE


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """An order of the samples of which every prefix holds each class in proportion (to within one sample).

    Args:
        labels: int64 (N,); -100 is treated as one more class.
        seed: which of the many such orders.

    Returns:
        int64 (N,), row numbers.
    """
    rank, size = _rank_in_class(labels, seed)
    return _sorted_by((rank.double() + 0.5) / size, seed)


def keep_labels(labels: Tensor, keep: int, seed: int) -> Tensor:
    """The same labels with all but ``keep`` of them replaced by -100; the kept ones are spread evenly over the classes.

    Where a class runs out, the others fill up. More labels with the same seed include the fewer.

    Args:
        labels: int64 (N,), -100 where there is none to begin with.
        keep: how many to keep.
        seed: which ones.

    Raises:
        ValueError: ``keep`` leaves a class without a label, or is more than there are.
    """
    known = labels != IGNORE
    classes, available = len(torch.unique(labels[known])), int(known.sum())
    if not classes <= keep <= available:
        raise ValueError(
            f"labels={keep}: give from {classes} (one for each class) to {available} (all training samples that have "
            "one), or leave it out to keep them all"
        )
    rank, _ = _rank_in_class(labels, seed)
    rank[~known] = len(labels)  # behind all others
    chosen = _sorted_by(rank.double(), seed)[:keep]
    kept = torch.full_like(labels, IGNORE)
    kept[chosen] = labels[chosen]
    return kept


def _rank_in_class(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Each sample's place among those of its class in a random order, and how many they are: int64 (N,) both."""
    rank, size = torch.empty_like(labels), torch.empty_like(labels)
    random = sample_seeds(seed, torch.arange(len(labels)))
    for label in torch.unique(labels):
        members = (labels == label).nonzero().flatten()
        members = members[random[members].argsort()]
        rank[members], size[members] = torch.arange(len(members)), len(members)
    return rank, size


def _sorted_by(key: Tensor, seed: int) -> Tensor:
    """Row numbers by ascending key, equal keys in a random order of their own (not in that of the classes)."""
    shuffled = sample_seeds(seed, torch.arange(len(key)), variant=1).argsort()
    return shuffled[key[shuffled].argsort(stable=True)]
