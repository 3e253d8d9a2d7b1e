"""Two checks before the first step: the teacher knows something, and every loss teaches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.binding import BoundLoss
from kdcore.cast import Cast
from kdcore.errors import RunError
from kdcore.recipe.schema import Ref
from kdcore.schedules import Progress, value_at
from kdcore.signals import Batch, Signals
from kdcore.task import Task


def check_teacher(name: str, scores: dict[str, float], task: Task) -> None:
    """Stop where a teacher is no better than guessing.

    Raises:
        RunError: its primary metric on the validation set is at or below chance.
    """
    metric, mode = task.primary
    chance = task.chance()
    if chance is None or metric not in scores:
        return
    value = scores[metric]
    if (value <= chance) if mode == "max" else (value >= chance):
        raise RunError(
            f"the teacher `{name}` has {metric} {value:.3f} on the validation set, and guessing has {chance:.3f}: "
            "it would teach nonsense. The usual causes: the classes are in another order than in its training, its "
            "input is not normalised as it was then (`mean`, `std`), or its weights were never loaded (`weights`)"
        )


def check_losses(cast: Cast, losses: list[BoundLoss], batch: Batch) -> list[str]:
    """On one batch, each loss has a finite, non-zero gradient at the student, none at a frozen teacher, and listens to it.

    Nets, buffers and random generators are as before afterwards.

    Returns:
        Warnings: losses that selected nothing in this batch.

    Raises:
        RunError: a loss does nothing, or what it does is not a number.
    """
    warnings = []
    order = cast.order({ref for loss in losses for ref in loss.refs})
    with _undisturbed(cast, losses):
        for loss in losses:
            loss.loss.progress = Progress(1.0)
        # a student that equals its teacher has no gradient, and that is no fault of the loss
        _perturb(cast)
        signals = cast.run(order, batch)
        for loss in losses:
            warnings += _check_loss(cast, loss, signals, batch)
    return warnings


def _check_loss(cast: Cast, loss: BoundLoss, signals: dict[Ref, Signals], batch: Batch) -> list[str]:
    totals = loss(signals, batch)
    if not any(int(total.count) for total in totals.values()):
        return [f"loss `{loss.name}` selected nothing in the first batch: its value is 0 there"]
    value = _mean(totals)
    if not torch.isfinite(value):
        raise RunError(f"loss `{loss.name}` is {float(value)} on the first batch{_blame(loss, signals)}")
    if value_at(loss.weight, Progress(1.0)) == 0:
        return [f"loss `{loss.name}` has weight 0 at the end of its schedule"]
    student = loss.roles["student"]
    names = {ref.model for ref in (student if isinstance(student, tuple) else (student,))}
    parameters = [p for name in names if name in cast.trained for p in cast.trained[name].parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True) if value.requires_grad else ()
    norm = sum((g.double().square().sum() for g in gradients if g is not None), torch.zeros((), dtype=torch.double)) ** 0.5
    if not torch.isfinite(norm):
        raise RunError(f"loss `{loss.name}` has a gradient that is {float(norm)} at the student on the first batch")
    if norm == 0:
        raise RunError(
            f"loss `{loss.name}` has no gradient at `{', '.join(sorted(names))}`: it would train nothing. "
            "Is the student frozen, the signal detached, or the loss bound to a model that does not learn?"
        )
    if not _listens(loss, signals, batch, value):
        raise RunError(
            f"loss `{loss.name}` does not change when its teacher's signals are replaced by others like them: "
            "it would distil nothing. Is it bound to the right signal?"
        )
    return []


def _listens(loss: BoundLoss, signals: dict[Ref, Signals], batch: Batch, value: Tensor) -> bool:
    reads = {(ref, read.source) for read in loss.reads if read.role != "student" for ref in _refs(loss, read.of)}
    if not reads:
        return True
    changed = {ref: dict(given) for ref, given in signals.items()}
    for ref, source in reads:
        tensor = changed[ref][source]
        if tensor.is_floating_point():
            changed[ref][source] = _others_like(tensor.detach())
    student = {(ref, read.source) for read in loss.reads if read.role == "student" for ref in _refs(loss, read.of)}
    if student & reads:
        # a net that teaches itself through the same signal: replacing that changes the student too
        return True
    return not torch.equal(_mean(loss(changed, batch)).detach(), value.detach())


def _others_like(x: Tensor) -> Tensor:
    """Fresh values of the same mean and spread: a permutation would leave matching and transport losses as they are."""
    finite = torch.where(torch.isfinite(x), x, 0.0).float()
    fresh = torch.randn_like(finite) * finite.std().clamp(min=1e-3) + finite.mean()
    return torch.where(torch.isfinite(x), fresh.to(x.dtype), x)


def _blame(loss: BoundLoss, signals: dict[Ref, Signals]) -> str:
    for read in loss.reads:
        for ref in _refs(loss, read.of):
            if torch.isnan(signals[ref][read.source]).any():
                return f": `{read.source}` of model `{ref.model}` holds NaN"
    return ""


def _mean(totals: dict[str, Any]) -> Tensor:
    return torch.stack([total.sum / total.count.clamp(min=1) for total in totals.values()]).sum()


def _refs(loss: BoundLoss, role: str) -> tuple[Ref, ...]:
    bound = loss.roles[role]
    return bound if isinstance(bound, tuple) else (bound,)


@torch.no_grad()
def _perturb(cast: Cast) -> None:
    for module in cast.trained.values():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * (1e-2 * parameter.std(correction=0) + 1e-4))


@contextmanager
def _undisturbed(cast: Cast, losses: list[BoundLoss]) -> Iterator[None]:
    """Put weights, buffers, modes, progress and random states back."""
    trees: list[nn.Module] = [*cast.trained.values(), *losses]
    kept = [{name: value.detach().clone() for name, value in _tensors(tree)} for tree in trees]
    progress = [loss.loss.progress for loss in losses]
    with torch.random.fork_rng():
        yield
    with torch.no_grad():
        for tree, state in zip(trees, kept, strict=True):
            for name, value in _tensors(tree):
                value.copy_(state[name])
    for loss, before in zip(losses, progress, strict=True):
        loss.loss.progress = before


def _tensors(tree: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from tree.named_parameters()
    yield from tree.named_buffers()
