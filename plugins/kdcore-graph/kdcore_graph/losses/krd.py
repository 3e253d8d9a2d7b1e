"""Reliable distillation: neighbours teach too, the more often the less noise changes what the teacher says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from kdcore.data.seeds import derive_seed
from kdcore.errors import RunError
from kdcore.losses import functional
from kdcore.losses.base import Loss, Total, check_temperature, masked_total
from kdcore.schedules import Scheduled
from kdcore.signals import Batch, Signals
from kdcore.task import normalise
from kdcore_graph.losses.edges import edges_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kdcore_graph.graph import GraphView

BINS = 20
POWERS = 100
"""Powers that are tried when the curve is fitted: 0.05, 0.10, ..., 5."""


class KRD(Loss):
    """KL(p(t_j) || p(s_i)) over edges j -> i, of which each is drawn with probability ``1 - (r_j / max r)^a``.

    ``r_j`` is the mean squared change of the entropy of the teacher's prediction about j under noise on all features.
    The power a follows the training: it is fitted to the share of nodes, by r, about which student and teacher agree,
    and moves towards that by ``1 - momentum`` a step. Beside it belongs ``kl``, which is the paper's other half.

    **Shape**: both ``logits`` (N, C); ``batch["edges"]`` int64 (2, E) among the N rows, ``id`` (N,), ``graph``.

    **Reduction**: ``count`` is E, all edges: those that are not drawn have a term of 0.

    Args:
        temperature: of both distributions.
        noise: standard deviation of the noise on the features.
        draws: how often noise is drawn to measure the change; once in a stage.
        momentum: how much of the power is kept in a step.

    Raises:
        ValueError: a temperature or a noise that is not above 0, no draws, a momentum outside [0, 1].
        KeyError: the batch has no ``edges``.
        RunError: the teacher does not read a graph.

    **Paper**: Wu et al., Quantifying the Knowledge in GNNs for Reliable Distillation into MLPs, 2023
    (arXiv 2306.05628).
    **Deviation**: the power is fitted by trying values from 0.05 to 5 on a histogram of 20 bins.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student.logits", "teacher.logits"})
    relational: ClassVar[bool] = True
    power: Tensor

    def __init__(
        self, *, temperature: Scheduled = 1.0, noise: float = 1.0, draws: int = 10, momentum: float = 0.99
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        if not (noise > 0 and draws >= 1 and 0 <= momentum <= 1):
            raise ValueError(
                f"noise={noise} must be above 0, draws={draws} at least 1, and momentum={momentum} from 0 to 1"
            )
        self.temperature, self.noise, self.draws, self.momentum = temperature, noise, draws, momentum
        self.register_buffer("power", torch.ones(()))
        self._teacher: tuple[nn.Module, ...] = ()  # a tuple: a frozen teacher is no part of its loss
        self._measured: tuple[int, Tensor] | None = None

    def setup(
        self, example: Mapping[str, Signals], facts: Mapping[str, int], models: Callable[[str], nn.Module]
    ) -> None:
        teacher = models("teacher")
        if not getattr(teacher, "takes_graph", False):
            raise RunError("krd measures how a GNN's answers change under noise: its teacher must be one, as graph.gnn")
        self._teacher = (teacher,)

    def forward(self, student: Signals, teacher: Signals, batch: Batch, **roles: Any) -> Total:
        ours, theirs = student["logits"].float(), teacher["logits"].float()
        source, target = edges_of(batch, "krd")
        change = self._change(batch["graph"], ours.device)
        place = change[batch["id"]] / change.max().clamp(min=1e-12)  # in [0, 1], 0 is reliable
        if self.training:
            self._follow(place, ours.detach().argmax(-1) == theirs.argmax(-1))
        drawn = torch.rand(len(source), device=ours.device) < 1 - place[source] ** self.power
        terms = functional.kl(ours[target], theirs[source], temperature=self.now(self.temperature)) * drawn
        return masked_total(terms, {})

    @torch.no_grad()
    def _follow(self, place: Tensor, agree: Tensor) -> None:
        """Move the power towards the one whose curve is closest to the share of agreement in each bin."""
        bins = (place * BINS).long().clamp(max=BINS - 1)
        number = torch.zeros(BINS, device=place.device).index_add_(0, bins, torch.ones_like(place))
        agreed = torch.zeros(BINS, device=place.device).index_add_(0, bins, agree.to(place.dtype))
        middle = (torch.arange(BINS, device=place.device) + 0.5) / BINS
        powers = torch.arange(1, POWERS + 1, device=place.device) * (5.0 / POWERS)
        curve = 1 - middle.unsqueeze(0) ** powers.unsqueeze(1)
        error = (number * (curve - agreed / number.clamp(min=1)).square()).sum(1)
        self.power.lerp_(powers[error.argmin()], 1 - self.momentum)

    def _change(self, view: GraphView, device: torch.device) -> Tensor:
        """``r`` of every node, measured once for a graph."""
        if self._measured is None or self._measured[0] != id(view):
            self._measured = id(view), entropy_change(self._teacher[0], view.on(device), self.noise, self.draws)
        return self._measured[1]


@torch.no_grad()
def entropy_change(teacher: nn.Module, view: GraphView, noise: float, draws: int) -> Tensor:
    """Mean squared change of the entropy of each node's prediction, divided by the noise's variance: (N,)."""
    device = view.features.device
    generator = torch.Generator(device).manual_seed(derive_seed("graph.krd"))

    def entropy(features: Tensor) -> Tensor:
        return _entropy(teacher(normalise(teacher, features), view.edges)["logits"])

    clean = entropy(view.features)
    total = torch.zeros_like(clean)
    for _ in range(draws):
        drawn = torch.randn(view.features.shape, generator=generator, device=device)
        total += (entropy(view.features + noise * drawn) - clean).square()
    return total / (draws * noise**2)


def _entropy(logits: Tensor) -> Tensor:
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)
