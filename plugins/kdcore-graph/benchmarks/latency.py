"""How long an answer about one node takes: a GNN with its neighbours fetched against the MLP, in one run.

    python benchmarks/latency.py [--nodes 120000] [--degree 30] [--features 100] [--layers 2] [--queries 200]

The graph is PyG's FakeDataset or, with ``--random``, drawn uniformly. A query asks about 10 nodes, as GLNN measures:
for the GNN all neighbours within its layers are found and their features gathered, then it runs on that subgraph; the
MLP gathers 10 rows. Both nets are 128 wide. Prints medians per query and per node and their ratio; nothing is asserted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from kdcore_graph.data.pyg import Pyg
from kdcore_graph.graph import both_ways
from kdcore_graph.models.gnn import GNN
from kdcore_graph.models.mlp import MLP
from kdcore_graph.sampling import NeighbourSampler, by_target

ASKED = 10


def graph(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Features and edges."""
    torch.manual_seed(0)
    if options.random:
        ends = torch.randint(options.nodes, (2, options.nodes * options.degree // 2))
        return torch.rand(options.nodes, options.features), both_ways(ends, options.nodes)
    fake = {
        "num_graphs": 1, "avg_num_nodes": options.nodes, "avg_degree": options.degree, "num_channels": options.features,
        "num_classes": 40, "task": "node", "edge_dim": 0,
    }  # fmt: skip
    made = Pyg(name="FakeDataset", options=fake).graph
    return made.features, both_ways(made.edges, made.nodes)


def median(run: Callable[[Tensor], object], queries: list[Tensor]) -> float:
    taken = []
    for nodes in queries:
        start = time.perf_counter()
        run(nodes)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken[len(taken) // 10 :])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=120_000)
    parser.add_argument("--degree", type=int, default=30)
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--random", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    features, edges = graph(options)
    nodes = len(features)
    keys = {"classes": 40, "features": features.shape[1], "width": 128}
    gnn = GNN(**keys, layers=options.layers).eval()
    mlp = MLP(**keys, layers=options.layers).eval()
    sampler, draws = NeighbourSampler(by_target(edges, nodes)), torch.Generator().manual_seed(0)
    reached = []

    def ask_gnn(asked: Tensor) -> Tensor:
        found = sampler.sample(asked, [-1] * options.layers, draws)
        reached.append(len(found.nodes))
        return gnn(features[found.nodes], found.edges)["logits"][: len(asked)]

    def ask_mlp(asked: Tensor) -> Tensor:
        return mlp(features[asked])["logits"]

    queries = [torch.randperm(nodes, generator=draws)[:ASKED] for _ in range(options.queries)]
    for run in (ask_gnn, ask_mlp):
        median(run, queries[:5])  # warms up
    times = {"GNN with neighbour fetch": median(ask_gnn, queries), "MLP": median(ask_mlp, queries)}
    print(f"{nodes:,} nodes, {edges.shape[1]:,} directed edges, {options.layers} layers, {options.threads} thread(s)")
    for name, taken in times.items():
        print(f"{name}: {taken:.3f} ms for {ASKED} nodes, {taken / ASKED:.4f} ms a node")
    ratio = times["GNN with neighbour fetch"] / times["MLP"]
    print(f"a query reaches {statistics.median(reached):,.0f} nodes; the MLP is {ratio:,.0f} times as fast")


if __name__ == "__main__":
    main()
