"""Neighbours: compressed rows of a graph, sampling without replacement, and chunks for exact inference.

In torch alone: PyG's NeighborLoader needs pyg-lib, which package indexes do not carry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_UNSEEN = torch.iinfo(torch.int64).max


class Rows(NamedTuple):
    """Edges by target: those into node ``i`` come from ``sources[starts[i]:starts[i + 1]]``, at ``order[...]``.

    ``order`` says where the edge stood in the list it came from, and is ``None`` where that was sorted by target.
    """

    starts: Tensor
    sources: Tensor
    order: Tensor | None = None


class Sampled(NamedTuple):
    """A subgraph around some seeds: ``nodes`` int64 (M,), the seeds first, and ``edges`` (2, E) among their places."""

    nodes: Tensor
    edges: Tensor


def by_target(edges: Tensor, nodes: int) -> Rows:
    """The rows of an edge list (2, E), which is not copied where it is sorted by target."""
    source, target = edges
    order = None
    if bool((target[1:] < target[:-1]).any()):
        order = target.argsort(stable=True)
        source, target = source[order], target[order]
    starts = torch.zeros(nodes + 1, dtype=torch.int64, device=edges.device)
    torch.cumsum(torch.bincount(target, minlength=nodes), 0, out=starts[1:])
    return Rows(starts, source, order)


class NeighbourSampler:
    """Samples neighbourhoods of a fixed graph, hop by hop, each node's neighbours at most once.

    Args:
        rows: of the graph, on the CPU.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._place = torch.full((len(rows.starts) - 1,), _UNSEEN)
        """Scratch: where a node stands in the subgraph being sampled."""

    def sample(self, seeds: Tensor, fanout: Sequence[int], generator: torch.Generator) -> Sampled:
        """The seeds and, hop by hop, up to ``fanout[hop]`` neighbours of each node found in the hop before.

        Args:
            seeds: int64, no node twice.
            fanout: one number a hop, nearest first; -1 takes all neighbours.
            generator: decides which.
        """
        found, sources, targets = [seeds], [], []
        self._place.scatter_(0, seeds, torch.arange(len(seeds)))
        count, frontier = len(seeds), seeds
        for most in fanout:
            source, repeats = self._neighbours(frontier, most, generator)
            targets.append(torch.arange(count - len(frontier), count).repeat_interleave(repeats))
            frontier, places = self._numbered(source, count)
            sources.append(places)
            found.append(frontier)
            count += len(frontier)
        nodes = torch.cat(found)
        self._place.index_fill_(0, nodes, _UNSEEN)
        return Sampled(nodes, torch.stack([torch.cat(sources), torch.cat(targets)]))

    def _numbered(self, source: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Those that are not in the subgraph yet, in the order of their first appearance, and the places of all.

        Reads single numbers all over a large array as seldom as it can, and by ``index_select``, which takes a sixth of
        the time of indexing: this is where sampling spends its time.
        """
        places = self._place.index_select(0, source)
        is_new = places == _UNSEEN
        unknown = source.masked_select(is_new)
        at = torch.arange(len(unknown))
        self._place.scatter_reduce_(0, unknown, at, "amin")
        first = self._place.index_select(0, unknown)
        fresh = unknown.masked_select(first == at)
        number = (first == at).cumsum(0) + (count - 1)
        self._place.scatter_(0, fresh, torch.arange(count, count + len(fresh)))
        return fresh, places.masked_scatter_(is_new, number.index_select(0, first))

    def _neighbours(self, nodes: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sources of edges into ``nodes``, and how many each node got."""
        start = self._rows.starts.index_select(0, nodes)
        degree = self._rows.starts.index_select(0, nodes + 1) - start
        if most < 0:
            return self._rows.sources.index_select(0, _ranges(start, degree)).long(), degree
        chosen = start.unsqueeze(1) + _distinct(degree, most, generator)
        kept = torch.arange(most) < degree.unsqueeze(1)
        return self._rows.sources.index_select(0, chosen.masked_select(kept)).long(), degree.clamp(max=most)


def _distinct(degree: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """For each node ``most`` different numbers below its degree; 0, 1, ... where it has no more than ``most``.

    Floyd's algorithm, for all nodes at once: (n,) -> int64 (n, most).

    **Paper**: Bentley and Floyd, Programming pearls: a sample of brilliance, CACM 1987.
    """
    last = degree - most
    picked = torch.empty((most, len(degree)), dtype=torch.int64)
    draws = torch.rand((most, len(degree)), generator=generator, dtype=torch.float64)
    # (0..1) -> (0..top) for each row, where a node has so many
    drawn = (draws * (last + torch.arange(1, most + 1).unsqueeze(1))).long()
    for row in range(most):
        taken = (picked[:row] == drawn[row]).any(0)
        torch.where(taken, last + row, drawn[row], out=picked[row])
    return torch.where(last > 0, picked, torch.arange(most).unsqueeze(1)).T


def _ranges(start: Tensor, length: Tensor) -> Tensor:
    """``start[i], start[i] + 1, ...`` for each i, one after the other."""
    before = torch.cumsum(length, 0) - length
    return torch.arange(int(length.sum()), device=start.device) + (start - before).repeat_interleave(length)


class Chunk(NamedTuple):
    """Targets with all their neighbours: ``nodes``, the targets first; ``edges`` among their places; which edges."""

    targets: slice
    nodes: Tensor
    edges: Tensor
    which: Tensor


def chunks(rows: Rows, size: int) -> Iterator[Chunk]:
    """All nodes in pieces of ``size``, each with every edge into it: what one layer needs to be exact."""
    total = len(rows.starts) - 1
    for first in range(0, total, size):
        last = min(first + size, total)
        span = slice(int(rows.starts[first]), int(rows.starts[last]))
        degree = rows.starts[first + 1 : last + 1] - rows.starts[first:last]
        others, place = torch.unique(rows.sources[span].long(), return_inverse=True)
        own = torch.arange(first, last, device=others.device)
        edges = torch.stack(
            [place + (last - first), torch.arange(last - first, device=others.device).repeat_interleave(degree)]
        )
        at = torch.arange(span.start, span.stop, device=others.device)
        yield Chunk(slice(first, last), torch.cat([own, others]), edges, at if rows.order is None else rows.order[span])
