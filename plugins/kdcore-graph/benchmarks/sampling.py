"""How long it takes to sample 1,024 seeds with fan-out 10 x 10 from a graph of 50 million edges.

    python benchmarks/sampling.py [--edges 50000000] [--nodes 2000000] [--threads 2] [--rounds 50]

Degrees are drawn from a heavy-tailed distribution, sources uniformly: each read is a miss in every cache. Prints the
median and the 90th percentile over rounds, each with seeds of its own; nothing is asserted.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from kdcore_graph.sampling import NeighbourSampler, Rows


def graph(nodes: int, edges: int) -> Rows:
    """Rows with degrees as in citation networks: many small, few very large."""
    draws = torch.Generator().manual_seed(0)
    weight = torch.rand(nodes, generator=draws, dtype=torch.float64).clamp(min=1e-4).pow(-0.6)
    degree = (weight / weight.sum() * edges).long()
    degree[: edges - int(degree.sum())] += 1
    starts = torch.zeros(nodes + 1, dtype=torch.int64)
    torch.cumsum(degree, 0, out=starts[1:])
    return Rows(starts, torch.randint(nodes, (int(starts[-1]),), generator=draws, dtype=torch.int32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, default=50_000_000)
    parser.add_argument("--nodes", type=int, default=2_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sampler, draws = NeighbourSampler(graph(options.nodes, options.edges)), torch.Generator().manual_seed(1)
    taken, sizes = [], []
    for _ in range(options.rounds + 3):
        seeds = torch.randperm(options.nodes, generator=draws)[:1024]
        start = time.perf_counter()
        found = sampler.sample(seeds, [10, 10], draws)
        taken.append(1e3 * (time.perf_counter() - start))
        sizes.append(found.edges.shape[1])
    taken = sorted(taken[3:])  # the first rounds warm up
    print(
        f"{options.edges:,} edges, {options.threads} threads: median {statistics.median(taken):.1f} ms, 90th "
        f"percentile {taken[int(0.9 * len(taken))]:.1f} ms; {statistics.mean(sizes):,.0f} edges sampled"
    )


if __name__ == "__main__":
    main()
