"""What kdcore-graph adds to kdcore. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdcore.errors import Problem
from kdcore.hookspecs import hookimpl

if TYPE_CHECKING:
    from kdcore.hookspecs import Add
    from kdcore.recipe.schema import Recipe

KDCORE_API = 1


@hookimpl
def kdcore_register(add: Add) -> None:
    add("task", "nodes", "kdcore_graph.tasks.nodes:NodeClassification")
    add("task", "links", "kdcore_graph.tasks.links:LinkPrediction")

    add("data", "links", "kdcore_graph.data.links:Links")
    add("data", "nodes", "kdcore_graph.data.nodes:Nodes")
    add("data", "npz", "kdcore_graph.data.npz:Npz")
    add("data", "planetoid", "kdcore_graph.data.planetoid:Planetoid")
    add("data", "tables", "kdcore_graph.data.tables:Tables")
    add("data", "digits", "kdcore_graph.data.digits:Digits")
    add("data", "pyg", "kdcore_graph.data.pyg:Pyg")
    add("data", "ogb", "kdcore_graph.data.pyg:Ogb")

    add("model", "gnn", "kdcore_graph.models.gnn:GNN")
    add("model", "mlp", "kdcore_graph.models.mlp:MLP")
    add("model", "link_gnn", "kdcore_graph.models.links:LinkGNN")
    add("model", "link_mlp", "kdcore_graph.models.links:LinkMLP")
    add("model", "vq_gnn", "kdcore_graph.models.vq:VQGNN")

    add("loss", "ff_g2m", "kdcore_graph.losses.ff_g2m:FFG2M")
    add("loss", "krd", "kdcore_graph.losses.krd:KRD")
    add("loss", "representational_similarity", "kdcore_graph.losses.nosmog:RepresentationalSimilarity")
    add("loss", "vq_tokenizer", "kdcore_graph.losses.vqgraph:VQTokenizer")
    add("loss", "vqgraph", "kdcore_graph.losses.vqgraph:VQGraph")
    add("loss", "llp_rank", "kdcore_graph.losses.llp:LLPRank")
    add("loss", "llp_distribution", "kdcore_graph.losses.llp:LLPDistribution")

    add("metric", "unseen_accuracy", "kdcore_graph.metrics.accuracy:UnseenAccuracy")
    add("metric", "seen_accuracy", "kdcore_graph.metrics.accuracy:SeenAccuracy")
    add("metric", "noise_accuracy", "kdcore_graph.metrics.accuracy:NoiseAccuracy")
    add("metric", "average_precision", "kdcore_graph.metrics.curves:AveragePrecision")
    add("metric", "auroc", "kdcore_graph.metrics.curves:AUROC")
    add("metric", "recall_at_precision", "kdcore_graph.metrics.curves:RecallAtPrecision")
    add("metric", "hits", "kdcore_graph.metrics.ranking:Hits")
    add("metric", "mrr", "kdcore_graph.metrics.ranking:MRR")

    add("prepare", "adversarial", "kdcore_graph.adversarial:Adversarial")

    add("optimizer", "adam", "kdcore_graph.optimizers:adam")


@hookimpl
def kdcore_check_recipe(recipe: Recipe) -> list[Problem]:
    from kdcore_graph.checks import check_recipe

    return check_recipe(recipe)


@hookimpl
def kdcore_check_environment() -> list[Problem]:
    from importlib.util import find_spec

    if find_spec("torch_geometric") is None:
        return [Problem("PyTorch Geometric is not installed, which the teachers need", "pip install torch_geometric")]
    return []
