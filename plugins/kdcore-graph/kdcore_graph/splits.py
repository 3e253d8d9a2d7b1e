"""Which nodes are trained on, validated on and tested on, and which of them are unseen until then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kdcore.data.seeds import derive_seed
from kdcore.errors import RunError
from kdcore.signals import IGNORE
from kdcore_graph.graph import Graph

Setting = Literal["transductive", "inductive", "production"]


@dataclass(frozen=True)
class NodeSplit:
    """Node numbers, each int64 and sorted.

    Attributes:
        train: whose labels may be learnt from.
        val: whose labels choose the weights.
        test: whose labels are asked in the end, as the setting says.
        unseen: bool (N,): neither in features nor in edges known before the test.
    """

    train: Tensor
    val: Tensor
    test: Tensor
    unseen: Tensor

    @property
    def observed(self) -> Tensor:
        """The nodes known while training."""
        return (~self.unseen).nonzero().flatten()


def random_split(labels: Tensor, train: int, val: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """So many training and validation nodes of each class, the rest for the test.

    A class too small for that gives a third to training and half of what is left to validation.

    Raises:
        RunError: a class has fewer than three labelled nodes.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "graph.split"))
    parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for label in torch.unique(labels[labels != IGNORE]).tolist():
        members = (labels == label).nonzero().flatten()
        if len(members) < 3:
            raise RunError(
                f"class {label} has {len(members)} labelled node(s): three are needed, one each to train, validate "
                "and test on. Merge small classes, or give a split of your own"
            )
        members = members[torch.randperm(len(members), generator=generator)]
        first = min(train, len(members) // 3)
        second = min(val, (len(members) - first) // 2)
        for part, piece in zip(parts, members.split([first, second, len(members) - first - second]), strict=True):
            part.append(piece)
    train_nodes, val_nodes, test_nodes = (torch.cat(part).sort().values for part in parts)
    return train_nodes, val_nodes, test_nodes


def given_split(graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
    """The split that the data set brings.

    Raises:
        RunError: it brings none, or one part is empty.
    """
    if graph.split is None:
        raise RunError("`split: given`, but this source brings no split: say `split: random`")
    labelled = graph.labels != IGNORE
    found = tuple(((graph.split == part) & labelled).nonzero().flatten() for part in range(3))
    for name, nodes in zip(("train", "validation", "test"), found, strict=True):
        if len(nodes) == 0:
            raise RunError(f"`split: given`: the {name} part of the source's split holds no labelled node")
    return found[0], found[1], found[2]


def split_nodes(
    parts: tuple[Tensor, Tensor, Tensor], nodes: int, setting: Setting, unseen: float, seed: int
) -> NodeSplit:
    """The three settings of GLNN.

    ``transductive``: all features and edges are known, only labels are hidden. ``inductive`` and ``production``: a
    random share of the test nodes is unseen, with every edge to them; both train alike, and are tested on the unseen
    nodes only, or on all test nodes.

    **Paper**: Zhang et al., Graph-less Neural Networks, 2021 (arXiv 2110.08727).

    Raises:
        RunError: the share leaves no test node unseen, or none seen.
    """
    train, val, test = parts
    hidden = torch.zeros(nodes, dtype=torch.bool)
    if setting == "transductive":
        return NodeSplit(train, val, test, hidden)
    count = round(unseen * len(test))
    if not 0 < count < len(test):
        raise RunError(f"unseen={unseen} of {len(test)} test nodes are {count}: some must be unseen, and some seen")
    generator = torch.Generator().manual_seed(derive_seed(seed, "graph.unseen"))
    hidden[test[torch.randperm(len(test), generator=generator)[:count]]] = True
    return NodeSplit(train, val, test if setting == "production" else hidden.nonzero().flatten(), hidden)
