"""What kdcore promises of every loss, checked on each that this plugin registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from kdcore.losses.base import Loss
from kdcore.testing import check_loss, registered, samples
from kdcore_graph.graph import GraphView
from kdcore_graph.losses.ff_g2m import FFG2M
from kdcore_graph.losses.krd import KRD
from kdcore_graph.losses.llp import LLPDistribution, LLPRank
from kdcore_graph.losses.nosmog import RepresentationalSimilarity
from kdcore_graph.losses.vqgraph import VQGraph, VQTokenizer, squared_distances
from kdcore_graph.models.gnn import GNN

NODES = samples.nodes()
HIDDEN = samples.nodes(signal="hidden", channels=(3, 4))
EDGES = {"order": "edges name rows by their number"}
NEIGHBOURS = {**EDGES, "minimal": "a node learns what the teacher says of its neighbours"}


def masked(sample: Any) -> dict[str, Any]:
    """Every third node is left out."""
    return {**sample, "batch": {**sample["batch"], "mask": torch.arange(len(sample["batch"]["id"])) % 3 > 0}}


def viewed(sample: Any) -> dict[str, Any]:
    """The whole graph stands beside the batch."""
    batch = sample["batch"]
    return {**sample, "batch": {**batch, "graph": GraphView(batch["features"], batch["edges"])}}


def coded() -> dict[str, Any]:
    """A teacher with five codes of four numbers."""
    theirs, codebook = HIDDEN["teacher"]["hidden"], torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    return masked({**HIDDEN, "teacher": {"codes": -squared_distances(theirs, codebook), "codebook": codebook}})


def quantised() -> dict[str, Any]:
    """A student that is to become a tokenizer."""
    student = {"hidden": HIDDEN["student"]["hidden"], "quantised": HIDDEN["student"]["hidden"].round()}
    return {"student": student, "batch": HIDDEN["batch"], "facts": {"features": samples.WIDTH}}


def teacher() -> GNN:
    torch.manual_seed(0)
    return GNN(classes=samples.CLASSES, features=samples.WIDTH, width=4)


MEASURED = {
    "device": "noise is drawn by a generator of the device, which `meta` has not",
    "compile": "the first step runs the teacher, to measure it",
}
CASES: dict[str, tuple[Callable[[], Loss], dict[str, Any]]] = {
    "ff_g2m": (partial(FFG2M, low_temperature=2.0), {**NODES, "skip": NEIGHBOURS}),
    "krd": (KRD, {**viewed(NODES), "models": {"teacher": teacher()}, "skip": {**NEIGHBOURS, **MEASURED}}),
    "representational_similarity": (RepresentationalSimilarity, masked(HIDDEN)),
    "vq_tokenizer": (VQTokenizer, {**quantised(), "skip": EDGES}),
    "vqgraph": (partial(VQGraph, temperature=2.0), coded()),
    "llp_rank": (LLPRank, samples.vectors(signal="contexts")),
    "llp_distribution": (partial(LLPDistribution, temperature=2.0), samples.vectors(signal="contexts")),
}


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_what_a_loss_promises(name: str) -> None:
    make, given = CASES[name]
    check_loss(make, **{**given, "skip": {**given.get("skip", {}), "compile": "takes long, and is tested below"}})


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_compiles(name: str) -> None:
    make, given = CASES[name]
    check_loss(make, **given, only=["compile"])


def test_no_loss_is_forgotten() -> None:
    assert {name: type(make()) for name, (make, _) in CASES.items()} == registered("graph", "loss")
