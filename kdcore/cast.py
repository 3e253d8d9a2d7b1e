"""Who plays in a stage: the models being trained, their teachers, and one way to get the signals of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kdcore.errors import RunError
from kdcore.recipe.schema import Ref
from kdcore.signals import Batch, Signals, select_view
from kdcore.taps import Taps
from kdcore.task import Task
from kdcore.teachers import Ensemble, Follower, Frozen

Timer = Callable[[str], AbstractContextManager[None]]


@dataclass
class Cast:
    """The models of a stage by name, in four kinds; a name is in exactly one of them.

    Not an ``nn.Module``: frozen teachers must stay out of the module tree, so the Distiller registers
    ``trained`` itself and forwards device and dtype to the rest through :meth:`apply`.
    """

    task: Task
    trained: dict[str, nn.Module]
    frozen: dict[str, Frozen] = field(default_factory=dict)
    followers: dict[str, Follower] = field(default_factory=dict)
    ensembles: dict[str, Ensemble] = field(default_factory=dict)
    taps: dict[str, Taps] = field(default_factory=dict)
    live: frozenset[str] = frozenset()
    """Frozen teachers that are run with gradients, because a loss says so."""

    def module(self, name: str) -> nn.Module:
        """The net behind a name.

        Raises:
            RunError: an ensemble has no single net.
        """
        if name in self.trained:
            return self.trained[name]
        if name in self.frozen:
            return self.frozen[name].module
        if name in self.followers:
            return self.followers[name].module
        raise RunError(f"`{name}` is no single net" if name in self.ensembles else f"no model `{name}` in this stage")

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Move or cast every teacher."""
        for holder in self._holders():
            holder.apply(function)

    def order(self, wanted: Iterable[Ref]) -> tuple[Ref, ...]:
        """The runs of a step that give the wanted signals: teachers first, each model and view once."""
        found: dict[Ref, None] = {}
        for ref in sorted(set(wanted), key=lambda ref: (self._rank(ref.model), ref.model, ref.view or "")):
            for member in self.ensembles[ref.model].of if ref.model in self.ensembles else ():
                found.setdefault(Ref(member, ref.view))
            found.setdefault(ref)
        return tuple(sorted(found, key=lambda ref: self._rank(ref.model)))

    def run(self, order: tuple[Ref, ...], batch: Batch, teacher_timer: Timer | None = None) -> dict[Ref, Signals]:
        """Run the models in this order; ``others`` of a later one are the signals of the teachers before it."""
        signals: dict[Ref, Signals] = {}
        others: dict[str, Signals] = {}
        for ref in order:
            if ref.model in self.ensembles:
                ensemble = self.ensembles[ref.model]
                members = [signals[Ref(member, ref.view)] for member in ensemble.of]
                signals[ref] = ensemble.combine(members, self.task.class_axis)
            else:
                learns = ref.model in self.trained
                with nullcontext() if learns or teacher_timer is None else teacher_timer("teacher"):
                    signals[ref] = self._signals(ref, batch, others)
            if ref.model not in self.trained and ref.view is None:
                others[ref.model] = signals[ref]
        return signals

    def _signals(self, ref: Ref, batch: Batch, others: Mapping[str, Signals]) -> Signals:
        model = self.module(ref.model)
        seen = select_view(batch, ref.view)
        grad = torch.is_grad_enabled() and (ref.model in self.trained or ref.model in self.live)
        # no_grad, not inference_mode: a teacher's outputs are saved for the student's backward
        with torch.set_grad_enabled(grad):
            taps = self.taps.get(ref.model)
            if taps is None:
                return self.task.signals(model, seen, others)
            with taps.armed():
                signals = self.task.signals(model, seen, others)
            return {**signals, **taps.take()}

    def _rank(self, name: str) -> int:
        return 2 if name in self.trained else 1 if name in self.ensembles else 0

    def _holders(self) -> list[Frozen]:
        return [*self.frozen.values(), *(f.holder for f in self.followers.values() if f.holder is not None)]
