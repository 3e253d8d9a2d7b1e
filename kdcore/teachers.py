"""Teachers: frozen nets kept out of the module tree, and composites made of other models of the recipe."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdcore.errors import RunError
from kdcore.signals import Signals


class Frozen:
    """A net that does not learn: eval mode, no gradients, and no submodule of whoever holds it.

    In a module tree a teacher would be averaged, synchronised, put into train mode and checkpointed with the
    student; and a deep copy of the holder (which weight averaging makes) would copy it.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype | None = None) -> None:
        self.module = module.eval().requires_grad_(False)
        self._dtype = dtype

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Move or cast it as its holder is moved or cast; a dtype that the recipe gave is kept."""

        def move(tensor: Tensor) -> Tensor:
            # not cast there and back, which would round every weight
            return tensor.to(function(tensor.new_empty(0)).device)

        self.module._apply(function if self._dtype is None else move)  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self


@dataclass(frozen=True)
class Ensemble:
    """Several teachers that speak as one: each signal that all of them give is averaged.

    ``logits`` are averaged as probabilities where ``average`` says so: log of the mean softmax. Integers
    (``<name>.lengths``) say how the others are laid out and are the first member's.
    """

    of: tuple[str, ...]
    average: Literal["logits", "probabilities"] = "probabilities"

    def combine(self, members: Sequence[Signals], class_axis: int) -> Signals:
        """One signal for each name that every member has.

        Raises:
            RunError: the members give a signal in different shapes.
        """
        shared = set(members[0]).intersection(*members[1:])
        return {name: self._average(name, [member[name] for member in members], class_axis) for name in sorted(shared)}

    def _average(self, name: str, tensors: list[Tensor], class_axis: int) -> Tensor:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if len(set(shapes)) > 1:
            given = ", ".join(f"{shape} by `{member}`" for member, shape in zip(self.of, shapes, strict=True))
            raise RunError(f"an ensemble averages signals of one shape, and `{name}` is given as {given}")
        if not tensors[0].is_floating_point():
            return tensors[0]
        # members may compute in different types; probabilities need float32 at least
        wide = torch.promote_types(tensors[0].dtype, torch.float32)
        stacked = torch.stack([tensor.to(wide) for tensor in tensors])
        if name == "logits" and self.average == "probabilities":
            axis = class_axis + 1 if class_axis >= 0 else class_axis
            return stacked.log_softmax(axis).logsumexp(0) - math.log(len(tensors))
        return stacked.mean(0)


@dataclass
class Follower:
    """A frozen copy that follows a model being trained: its moving average, or itself some time ago.

    Args:
        of: the model it follows.
        decay: weight of the past in the moving average; ``None`` for plain copies at the end of each epoch.
    """

    of: str
    decay: float | None
    holder: Frozen | None = field(default=None, repr=False)
    _average: list[Tensor] | None = field(default=None, repr=False)
    """The moving average in float32, where the copy itself is held in half precision."""

    def follow(self, live: nn.Module) -> None:
        """Start as a copy of the live model."""
        self.holder = Frozen(copy.deepcopy(live))
        self._average = None

    @property
    def module(self) -> nn.Module:
        """The copy.

        Raises:
            RunError: there is none yet.
        """
        if self.holder is None:
            raise RunError(
                f"a teacher follows `{self.of}`, which no stage has trained so far: use it in a stage with "
                f"`train: {self.of}`, or after one"
            )
        return self.holder.module

    @torch.no_grad()
    def after_step(self, live: nn.Module) -> None:
        """Move the average a step: ``average = decay * average + (1 - decay) * live``; buffers are copied."""
        if self.decay is None:
            return
        mine = [p.detach() for p in self.module.parameters()]
        theirs = [p.detach() for p in live.parameters()]
        if all(p.dtype in (torch.float32, torch.float64) for p in mine):
            torch._foreach_lerp_(mine, theirs, 1.0 - self.decay)
        else:  # a step of 1 - decay is below what half precision tells apart: the average would stand still
            if self._average is None:
                self._average = [p.float() for p in mine]
            # a checkpoint is read before the nets are moved to their device
            self._average = [a.to(p.device) for a, p in zip(self._average, mine, strict=True)]
            torch._foreach_lerp_(self._average, [p.float() for p in theirs], 1.0 - self.decay)
            torch._foreach_copy_(mine, self._average)
        self._copy_buffers(live)

    @torch.no_grad()
    def after_epoch(self, live: nn.Module) -> None:
        """Copy the live model, where this follower is a snapshot."""
        if self.decay is None:
            self.module.load_state_dict(live.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The copy's weights, and the float32 average where there is one (both are in no module tree)."""
        return {"weights": self.module.state_dict(), "average": self._average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.module.load_state_dict(state["weights"])
        self._average = state["average"]

    def _copy_buffers(self, live: nn.Module) -> None:
        for mine, theirs in zip(self.module.buffers(), live.buffers(), strict=True):
            mine.copy_(theirs)


Composite = Ensemble | Follower


def ensemble(*, of: list[str], average: Literal["logits", "probabilities"] = "probabilities") -> Ensemble:
    """Several models as one teacher, averaged signal by signal; logits as probabilities by default.

    **Paper**: Hinton, Vinyals and Dean, 2015 (arXiv 1503.02531), section 1.
    """
    return Ensemble(tuple(of), average)


def ema(*, of: str, decay: float = 0.999) -> Follower:
    """A teacher that is the exponential moving average of the model being trained.

    **Paper**: Tarvainen and Valpola, Mean Teacher, 2017 (arXiv 1703.01780), eq. 1; decay from their section 3.

    Raises:
        ValueError: ``decay`` is not in [0, 1).
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay={decay} is not in [0, 1)")
    return Follower(of, decay)


def snapshot(*, of: str, every: Literal["epoch"] = "epoch") -> Follower:
    """A teacher that is the model being trained as it was at the end of the last epoch.

    **Paper**: Kim et al., PS-KD, 2021 (arXiv 2006.12000), section 3.2.
    """
    return Follower(of, None)
