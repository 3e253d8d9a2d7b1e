"""Where a node stands in the graph, as numbers that an MLP can read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcore.data.seeds import derive_seed
from kdcore.errors import RunError
from kdcore_graph.graph import GraphView

LIMIT = 20_000
"""Nodes beyond which the dense matrix of the factorisation no longer fits."""


def positions_of(view: GraphView, unseen: Tensor, size: int, seed: int) -> Tensor:
    """Position features: DeepWalk's embedding by its closed form; an unseen node gets the mean of its neighbours'.

    ``log max(1, vol / (b T) sum_{r=1..T} (D^-1 A)^r D^-1)``, then the leading singular vectors times the roots of
    their values. T = 10 and b = 1 as in the paper on the closed form.

    Args:
        view: the graph; training positions come from the edges among observed nodes alone.
        unseen: bool (N,).
        size: numbers a node gets.
        seed: fixes the start of the iteration that finds the singular vectors.

    Returns:
        float32 (N, size), with a standard deviation of 1 over all known nodes; 0 for an unseen node without neighbours.

    Raises:
        RunError: more nodes than the dense matrix is made for, or fewer than ``size`` numbers to be had.

    **Paper**: Tian et al., NOSMOG, 2022 (arXiv 2208.10010), which trains DeepWalk by sampled walks.
    **Deviation**: Qiu et al., Network Embedding as Matrix Factorization, 2017 (arXiv 1710.02971) show what those walks
    converge to; it is computed directly.
    """
    if view.nodes > LIMIT:
        raise RunError(
            f"positions={size}: the graph has {view.nodes} nodes, and positions are made for at most {LIMIT}"
        )
    seen = (~unseen).nonzero().flatten()
    if not 0 < size < len(seen) - 1:
        raise RunError(f"positions={size}: a graph with {len(seen)} known nodes has at most {len(seen) - 2}")
    positions = torch.zeros(view.nodes, size)
    positions[seen] = _deepwalk(view.edges, seen, view.nodes, size, seed)
    if view.all_edges is not None:
        source, target = view.all_edges[:, unseen[view.all_edges[1]] & ~unseen[view.all_edges[0]]]
        sums = torch.zeros_like(positions).index_add_(0, target, positions[source])
        counts = torch.bincount(target, minlength=view.nodes).clamp(min=1).unsqueeze(1)
        positions = torch.where(unseen.unsqueeze(1), sums / counts, positions)
    return positions


def _deepwalk(edges: Tensor, seen: Tensor, nodes: int, size: int, seed: int, window: int = 10) -> Tensor:
    from scipy.sparse import coo_array, csr_array
    from scipy.sparse.linalg import svds

    ones = np.ones(edges.shape[1])
    whole = csr_array(coo_array((ones, (edges[1].numpy(), edges[0].numpy())), shape=(nodes, nodes)))
    adjacency: Any = whole[seen.numpy()][:, seen.numpy()]
    degree = np.maximum(adjacency.sum(1), 1.0)
    walk = (adjacency.multiply(1.0 / degree[:, None])).toarray().astype(np.float32)
    power, total = walk, walk.copy()
    for _ in range(window - 1):
        power = power @ walk
        total += power
    volume = adjacency.sum()
    matrix = np.log(np.maximum(volume / window * total / degree[None, :], 1.0))
    start = np.random.default_rng(derive_seed(seed, "graph.positions")).standard_normal(len(seen))
    left, values, _ = svds(csr_array(matrix.astype(np.float64)), k=size, v0=start)
    order = np.argsort(-values)
    # the sign of a singular vector is free: fixed, so that all machines agree
    vectors = left[:, order] * np.sqrt(values[order])
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(size)])
    found = torch.from_numpy((vectors * signs).astype(np.float32))
    return found / found.std().clamp(min=1e-12)
