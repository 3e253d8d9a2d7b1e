"""Who plays in a stage: the models being trained, their teachers, and one way to get the signals of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kdcore.cache.source import CACHE, CachedTeacher
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
    cache: CachedTeacher | None = None
    """A teacher that training batches bring the signals of; with any other batch it is run."""

    def module(self, name: str) -> nn.Module:
        """The net behind a name.

        Raises:
            RunError: an ensemble has no single net, or there is no such model.
        """
        if name in self.trained:
            return self.trained[name]
        if name in self.frozen:
            return self.frozen[name].module
        if name in self.followers:
            return self.followers[name].module
        raise RunError(f"`{name}` is no single net" if name in self.ensembles else f"no model `{name}` in this stage")

    def members(self, name: str) -> tuple[str, ...]:
        """The nets behind a name: itself, or those of an ensemble."""
        return self.ensembles[name].of if name in self.ensembles else (name,)

    def reads(self, name: str) -> tuple[str, ...]:
        """The models whose signals this one computes from: its module's ``reads``, names of models of the recipe.

        Raises:
            RunError: one of them is not there, or is being trained and so has no signals to give.
        """
        names: tuple[str, ...] = () if name in self.ensembles else tuple(getattr(self.module(name), "reads", ()))
        for other in names:
            if other in self.trained or other not in {*self.frozen, *self.followers, *self.ensembles}:
                raise RunError(
                    f"model `{name}` reads the signals of `{other}`, which is no teacher of this stage: "
                    f"name it among the stage's `teachers`"
                )
        return names

    def apply(self, function: Callable[[Tensor], Tensor]) -> None:
        """Move or cast every teacher."""
        for holder in self.holders().values():
            holder.apply(function)

    def holders(self) -> dict[str, Frozen]:
        """Every frozen net, also the copies that follow a model."""
        following = {name: f.holder for name, f in self.followers.items() if f.holder is not None}
        return {**self.frozen, **following}

    def order(self, wanted: Iterable[Ref], *, cached: bool = True) -> tuple[Ref, ...]:
        """The runs of a step that give the wanted signals, each model and view once.

        Everyone comes after what its signals are computed from: the members of an ensemble, and what a model reads.
        Beyond that teachers come first, then the models being trained, then ensembles of those. What a ``cached``
        teacher is computed from is not run for it.

        Raises:
            RunError: a model reads the signals of one that is no frozen model of this stage, or models read each other.
        """
        done: dict[Ref, None] = {}

        def add(ref: Ref, above: tuple[Ref, ...] = ()) -> None:
            if ref in above:
                circle = " <- ".join(f"`{one.model}`" for one in (*above[above.index(ref) :], ref))
                raise RunError(f"these models are computed from each other's signals: {circle}")
            if ref not in done:
                for needed in self._needs(ref, cached):
                    add(needed, (*above, ref))
                done[ref] = None

        for ref in sorted(wanted, key=lambda ref: (self._rank(ref.model), ref.model, ref.view or "")):
            add(ref)
        return tuple(done)

    def _needs(self, ref: Ref, cached: bool) -> tuple[Ref, ...]:
        """The runs that a model's signals are computed from."""
        if cached and self.cache is not None and ref.model == self.cache.of:
            return ()
        if ref.model in self.ensembles:
            return tuple(Ref(member, ref.view) for member in self.ensembles[ref.model].of)
        return tuple(Ref(name) for name in self.reads(ref.model))

    def run(self, order: tuple[Ref, ...], batch: Batch, teacher_timer: Timer | None = None) -> dict[Ref, Signals]:
        """Run the models in this order; ``others`` of a later one are the signals of the teachers before it.

        Raises:
            RunError: the batch has no such view, or a tap found nothing.
        """
        signals: dict[Ref, Signals] = {}
        others: dict[str, Signals] = {}
        cache = self.cache if CACHE in batch else None
        if self.cache is not None and cache is None:
            order = self.order(order, cached=False)
        for ref in order:
            if cache is not None and ref.model == cache.of:
                signals[ref] = cache.signals(ref.view, batch)
            elif ref.model in self.ensembles:
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
        try:
            seen = select_view(batch, ref.view)
        except KeyError as error:
            raise RunError(f"model `{ref.model}` is to see the view `{ref.view}`: {error.args[0]}") from error
        grad = torch.is_grad_enabled() and (ref.model in self.trained or ref.model in self.live)
        # no_grad, not inference_mode: a teacher's outputs are saved for the student's backward
        taps = self.taps.get(ref.model)
        with (
            nullcontext() if grad == torch.is_grad_enabled() else torch.set_grad_enabled(grad),
            nullcontext() if taps is None else taps.armed(),
        ):
            try:
                signals = self.task.signals(model, seen, others)
            except (KeyError, ValueError) as error:  # what a task refuses: a batch without its input, wrong shapes
                message = error.args[0] if error.args else repr(error)
                raise RunError(f"model `{ref.model}`: {message}") from error
        return signals if taps is None else {**signals, **taps.take()}

    def _rank(self, name: str) -> int:
        return 2 if name not in self.trained and self.trained.keys() & self.members(name) else int(name in self.trained)
