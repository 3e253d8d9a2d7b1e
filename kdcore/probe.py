"""Two checks before the first step: the teacher knows something, and every loss teaches."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from kdcore.binding import BoundLoss
from kdcore.cast import Cast
from kdcore.errors import RunError
from kdcore.losses.base import Total
from kdcore.recipe.schema import Ref
from kdcore.schedules import Progress, value_at
from kdcore.signals import Batch, Signals
from kdcore.task import Task

END = Progress(1.0)


def check_teacher(name: str, scores: Mapping[str, float], task: Task) -> None:
    """Stop where a teacher is no better than guessing.

    Raises:
        RunError: its primary metric on the validation set is at or below chance, or not a number.
    """
    metric, mode = task.primary
    if metric not in scores:
        return
    value, chance = scores[metric], task.chance()
    if math.isnan(value):
        raise RunError(
            f"the teacher `{name}` has {metric} nan on the validation set: it gives values that are no numbers. "
            "Were its weights loaded (`weights`), and is its `dtype` wide enough?"
        )
    if chance is not None and ((value <= chance) if mode == "max" else (value >= chance)):
        raise RunError(
            f"the teacher `{name}` has {metric} {value:.3f} on the validation set, and guessing has {chance:.3f}: "
            "it would teach nonsense. The usual causes: the classes are in another order than in its training, its "
            "input is not normalised as it was then (`mean`, `std`), or its weights were never loaded (`weights`)"
        )


def check_losses(
    cast: Cast, losses: list[BoundLoss], batch: Batch, prepare: Callable[[Batch], Batch] | None = None
) -> list[str]:
    """On one batch, each loss has a finite, non-zero gradient at the student, none at its teacher, and listens to it.

    Weights, buffers, modes and random states are as before afterwards, also where a check fails.

    Args:
        cast: the models; those it trains are perturbed for the time being.
        losses: the bound losses.
        batch: on the models' device.
        prepare: what is done to a batch before the models see it.

    Returns:
        Warnings: losses that selected nothing in this batch, or whose weight ends at 0.

    Raises:
        RunError: a loss does nothing, what it does is not a number, or it would change a frozen teacher.
    """
    _check_frozen(cast, losses)
    order = cast.order({ref for loss in losses for ref in loss.refs})
    with _undisturbed(cast, losses), torch.enable_grad():
        for loss in losses:
            loss.loss.progress = END
        if prepare is not None:
            batch = prepare(batch)
        # a student that equals its teacher has no gradient, and that is no fault of the loss
        _perturb(cast)
        signals = cast.run(order, batch)
        return [warning for loss in losses for warning in _check_loss(cast, loss, signals, batch)]


def _check_frozen(cast: Cast, losses: list[BoundLoss]) -> None:
    owners = {part: name for name, holder in cast.holders().items() for part in holder.module.modules()}
    for name, holder in cast.holders().items():
        learning = [key for key, parameter in holder.module.named_parameters() if parameter.requires_grad]
        if learning:
            raise RunError(
                f"`{learning[0]}` of the frozen teacher `{name}` requires a gradient: something has thawed it since "
                "it was built. A model that is to learn belongs under `train`"
            )
    for loss in losses:
        held = next((part for part in loss.modules() if part in owners), None)
        if held is not None:
            raise RunError(
                f"loss `{loss.name}` holds a part of the frozen teacher `{owners[held]}` ({type(held).__name__}) as "
                "its own: it would be put into train mode and stored with the student. Keep it in a plain tuple"
            )


def _check_loss(cast: Cast, loss: BoundLoss, signals: Mapping[Ref, Signals], batch: Batch) -> list[str]:
    totals = loss(signals, batch)
    if not any(int(total.count) for total in totals.values()):
        return [f"loss `{loss.name}` selected nothing in the first batch: its value is 0 there"]
    value = _mean(totals)
    if not torch.isfinite(value):
        raise RunError(f"loss `{loss.name}` is {float(value.detach())} on the first batch{_blame(loss, signals)}")
    students = {ref.model for ref in _bound(loss, "student")} & cast.trained.keys()
    _check_student(cast, loss.name, value, students)
    if not loss.loss.live:
        _check_teachers(cast, loss, value, students)
    if not _listens(loss, signals, batch):
        raise RunError(
            f"loss `{loss.name}` does not change when its teacher's signals are replaced by others like them: "
            "it would distil nothing. Is it bound to the right signal?"
        )
    if value_at(loss.weight, END) == 0:
        return [f"loss `{loss.name}` has weight 0 at the end of its schedule"]
    return []


def _check_student(cast: Cast, name: str, value: Tensor, students: set[str]) -> None:
    norm = _gradient(value, [p for student in students for p in cast.trained[student].parameters()])
    if not math.isfinite(norm):
        raise RunError(f"loss `{name}` has a gradient that is {norm} at the student on the first batch")
    if norm == 0:
        raise RunError(
            f"loss `{name}` has no gradient at `{', '.join(sorted(students))}`: it would train nothing. "
            "Is the student frozen, the signal detached, or the loss bound to a model that does not learn?"
        )


def _check_teachers(cast: Cast, loss: BoundLoss, value: Tensor, students: set[str]) -> None:
    """Models that are trained may teach each other; a loss still trains its student only."""
    teaching = {ref.model for read in loss.reads for ref in _bound(loss, read.of)} & cast.trained.keys()
    # nets may share modules, which the student trains then
    shared = {p for student in students for p in cast.trained[student].parameters()}
    for name in sorted(teaching - students):
        if _gradient(value, [p for p in cast.trained[name].parameters() if p not in shared]) != 0:
            raise RunError(
                f"loss `{loss.name}` has a gradient at its teacher `{name}`, which would learn to please the student: "
                "a loss that means to train both says `live = True`"
            )


def _gradient(value: Tensor, parameters: list[nn.Parameter]) -> float:
    """Norm of the gradient of ``value`` at those parameters that learn."""
    learning = [p for p in parameters if p.requires_grad]
    if not learning or not value.requires_grad:
        return 0.0
    found = torch.autograd.grad(value, learning, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in found if gradient is not None))


@torch.no_grad()
def _listens(loss: BoundLoss, signals: Mapping[Ref, Signals], batch: Batch) -> bool:
    def read_by(*, student: bool) -> set[tuple[Ref, str]]:
        reads = [read for read in loss.reads if (read.role == "student") is student]
        return {(ref, read.source) for read in reads for ref in _bound(loss, read.of)}

    # what a net teaches itself through the same signal cannot be replaced on one side only
    teaching = sorted(read_by(student=False) - read_by(student=True), key=str)
    changed = {ref: dict(given) for ref, given in signals.items()}
    for ref, source in teaching:
        if not source.endswith(".lengths"):
            changed[ref][source] = _others_like(signals[ref][source])
    if not teaching:
        return True

    def again(given: Mapping[Ref, Signals]) -> Tensor:
        # from one state of buffers and generators: what differs then is the teacher's doing
        with _kept([loss]):
            torch.manual_seed(0)
            return _mean(loss(given, batch))

    for progress in (END, Progress(0.5)):  # a loss may mean to listen no more at its end
        loss.loss.progress = progress
        if not torch.equal(again(signals), again(changed)):
            return True
    return False


def _others_like(x: Tensor) -> Tensor:
    """Values drawn from those of ``x``, with repeats: a permutation leaves transport and matching losses unchanged."""
    finite = x[torch.isfinite(x)]
    if finite.numel() == 0:
        return x
    drawn = finite[torch.randint(finite.numel(), x.shape, device=x.device)]
    if x.is_floating_point():
        # a hundredth more or less, as what is drawn from equal values is equal to them
        drawn = drawn * (1.0 + 0.01 * torch.randn(x.shape, device=x.device)).to(x.dtype)
    return torch.where(torch.isfinite(x), drawn, x)


def _blame(loss: BoundLoss, signals: Mapping[Ref, Signals]) -> str:
    """Where it comes from. Not from ``-inf``, which is the logit of a class that is masked out."""
    for word, is_wrong in (("NaN", torch.isnan), ("inf", torch.isposinf)):
        for read in loss.reads:
            for ref in _bound(loss, read.of):
                if is_wrong(signals[ref][read.source]).any():
                    return f": `{read.source}` of model `{ref.model}` holds {word}"
    return ""


def _mean(totals: Mapping[str, Total]) -> Tensor:
    return torch.stack([total.sum / total.count.clamp(min=1) for total in totals.values()]).sum()


def _bound(loss: BoundLoss, role: str) -> tuple[Ref, ...]:
    bound = loss.roles.get(role, ())
    return bound if isinstance(bound, tuple) else (bound,)


@torch.no_grad()
def _perturb(cast: Cast) -> None:
    for module in cast.trained.values():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * (1e-2 * parameter.std(correction=0) + 1e-4))


@contextmanager
def _undisturbed(cast: Cast, losses: list[BoundLoss]) -> Iterator[None]:
    """Put weights, buffers, modes, progress and random states back, whatever happens."""
    kept_parameters = {p: p.detach().clone() for module in cast.trained.values() for p in module.parameters()}
    teachers = [holder.module for holder in cast.holders().values()]
    modes = {part: part.training for tree in (*cast.trained.values(), *teachers, *losses) for part in tree.modules()}
    progress = [loss.loss.progress for loss in losses]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with (
            torch.random.fork_rng(range(torch.cuda.device_count())),
            _kept([*cast.trained.values(), *teachers, *losses]),
        ):
            yield
    finally:
        with torch.no_grad():
            for parameter, value in kept_parameters.items():
                parameter.copy_(value)
        for part, training in modes.items():
            part.training = training
        for loss, before in zip(losses, progress, strict=True):
            loss.loss.progress = before
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _kept(trees: list[nn.Module] | list[BoundLoss]) -> Iterator[None]:
    """Put buffers back, also those that were replaced, or made, in the meantime."""
    modules = {part for tree in trees for part in tree.modules()}
    before = {part: {name: (buffer, _copy(buffer)) for name, buffer in part._buffers.items()} for part in modules}
    try:
        yield
    finally:
        for part, buffers in before.items():
            part._buffers.clear()
            for name, (buffer, value) in buffers.items():
                if buffer is not None and value is not None:
                    buffer.detach().copy_(value)
                part._buffers[name] = buffer


def _copy(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.detach().clone()
