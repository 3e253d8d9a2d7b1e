"""A codebook of local structures: learnt with the teacher, then spoken by the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, check_temperature, masked_total
from kdcore.schedules import Scheduled
from kdcore.signals import Batch, Signals
from kdcore_graph.losses.edges import edges_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class VQTokenizer(Loss):
    """Learns the codes of ``graph.vq_gnn``: what a code says must suffice to tell features and edges again.

    ``features``: 1 - cos(x, W z), mean over nodes. ``edges``: cross-entropy of sigmoid(u_i . u_j), u = V z, on the
    edges and on as many pairs drawn at random, mean over pairs. ``codebook``: ||sg(h) - z||^2, and ``commitment``:
    ``commitment`` * ||h - sg(z)||^2, means over elements. h is the net's hidden state, z its code.

    **Shape**: student ``hidden`` and ``quantised`` (N, D); ``batch["features"]`` (N, F), ``edges`` int64 (2, E).

    **Reduction**: nodes, pairs, nodes, nodes.

    Args:
        commitment: how strongly the hidden state is drawn to its code.

    Raises:
        ValueError: ``commitment`` below 0.
        KeyError: the batch has no ``edges``.

    **Paper**: Yang et al., VQGraph: Rethinking Graph Representation Space for Bridging GNNs and MLPs, 2023
    (arXiv 2308.02117).
    **Deviation**: edges are told by cross-entropy on drawn pairs, where the paper compares the whole N x N matrix; the
    features' cosine error is not raised to a power.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.hidden", "student.quantised"})
    relational: ClassVar[bool] = True

    def __init__(self, *, commitment: float = 0.25) -> None:
        super().__init__()
        if commitment < 0:
            raise ValueError(f"commitment={commitment} is below 0")
        self.commitment = commitment
        self.to_features: nn.Module = nn.Identity()
        self.to_edges: nn.Module = nn.Identity()

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, int], models: Callable[[str], nn.Module]
    ) -> None:
        width = example["student"]["quantised"].shape[1]
        self.to_features, self.to_edges = nn.Linear(width, facts["features"]), nn.Linear(width, width)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> dict[str, Total]:
        hidden, codes = student["hidden"].float(), student["quantised"].float()
        through = hidden + (codes - hidden).detach()
        features = batch["features"]
        features = features.to_dense() if features.layout == torch.sparse_csr else features
        return {
            "features": masked_total(functional.cosine_distance(self.to_features(through), features), {}),
            "edges": masked_total(self._edges(self.to_edges(through), edges_of(batch, "vq_tokenizer")), {}),
            "codebook": masked_total((codes - hidden.detach()).square().mean(1), {}),
            "commitment": masked_total(self.commitment * (hidden - codes.detach()).square().mean(1), {}),
        }

    def _edges(self, places: Tensor, edges: Tensor) -> Tensor:
        others = torch.randint(len(places), edges.shape, device=edges.device)
        scores = [(places[a] * places[b]).sum(1) / places.shape[1] ** 0.5 for a, b in (edges, others)]
        return torch.cat([F.softplus(-scores[0]), F.softplus(scores[1])])


class VQGraph(Loss):
    """``T^2 KL(a(g) || a(W h))``, a = softmax over codes c of ``-||. - c||^2 / T``; mean over nodes.

    g is the teacher's hidden state, h the student's; W maps it to the codes' width where that differs. Beside it
    belongs ``kl`` on the logits.

    **Shape**: student ``hidden`` (N, D); teacher ``codes`` (N, K), the negative squared distances, and ``codebook``
    (K, E).

    **Reduction**: ``count`` is the number of rows that the mask keeps.

    Args:
        temperature: T; the paper's own differs from graph to graph.

    Raises:
        ValueError: a temperature that is not above 0; a mask that does not fit.

    **Paper**: Yang et al., VQGraph: Rethinking Graph Representation Space for Bridging GNNs and MLPs, 2023
    (arXiv 2308.02117).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.hidden", "teacher.codes", "teacher.codebook"})

    def __init__(self, *, temperature: Scheduled = 1.0) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature
        self.map: nn.Module = nn.Identity()

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, int], models: Callable[[str], nn.Module]
    ) -> None:
        ours, theirs = example["student"]["hidden"].shape[1], example["teacher"]["codebook"].shape[1]
        self.map = nn.Identity() if ours == theirs else nn.Linear(ours, theirs)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        temperature, mask = self.now(self.temperature), batch.get("mask")
        hidden, theirs = (functional.hide(x, mask).float() for x in (student["hidden"], teacher["codes"]))
        ours = -squared_distances(self.map(hidden), teacher["codebook"].float())
        terms = functional.kl(ours, theirs, temperature=temperature)
        return masked_total(terms * temperature**2, batch)


def squared_distances(x: Tensor, codes: Tensor) -> Tensor:
    """``||x_n - c_k||^2``: (N, D) and (K, D) -> (N, K)."""
    return x.square().sum(1, keepdim=True) - 2 * x @ codes.T + codes.square().sum(1)
