"""One stage, put together: its models in their roles, its losses bound to signals, its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.binding import BoundLoss, Read, reads_of
from kdcore.build import Builder
from kdcore.cache.stage import CachedData, plan
from kdcore.cast import Cast
from kdcore.data.seeds import derive_seed
from kdcore.distiller import Distiller
from kdcore.errors import Problem, RecipeError, RunError
from kdcore.losses.base import Loss
from kdcore.parameters import group_parameters
from kdcore.recipe.schema import Init, LossSlot, Nested, Ref, Slot, Stage
from kdcore.signals import Signals
from kdcore.taps import Taps, select, suggest
from kdcore.task import Task, evaluating
from kdcore.weights.fitting import fit_state
from kdcore.weights.state import read_state
from kdcore.window import StageData


@dataclass
class BuiltStage:
    """Everything one stage runs with."""

    stage: Stage
    cast: Cast
    data: StageData
    distiller: Distiller
    losses: list[BoundLoss]

    def close(self) -> None:
        """Take the stage's hooks off the nets, which go on to the next stage."""
        for taps in self.cast.taps.values():
            taps.remove()
        for bound in self.losses:
            bound.loss.close()


def assemble(builder: Builder, stage: Stage) -> BuiltStage:
    """Everything that one stage runs with, ready for a trainer."""
    data = builder.data(stage.data)
    task = builder.task(stage.task, data)
    cast = _cast(builder, stage, task)
    _compare_classes(builder, stage, cast, data.class_names)
    start(builder, stage, cast.task.facts)
    for follower in cast.followers.values():
        # before taps and compile, which a copy must not carry along
        follower.follow(cast.trained[follower.of])
    losses = _Losses(builder, stage, cast).build()
    _refuse_split(stage, losses)
    cast.cache = plan(stage, cast, losses)
    frozen_parts = _freeze(stage, cast)
    for name, module in cast.trained.items():
        if builder.recipe.models[name].compile:
            # in place and after the taps: hooks that come later never fire
            module.compile()
    optimizer = stage.optimizer
    distiller = Distiller(
        stage.name,
        cast,
        losses=losses,
        scores={name: builder.scores(stage, task) for name in cast.trained},
        teachers=stage.teachers,
        optimizer=lambda groups: builder.make("optimizer", optimizer, groups),
        parameter_groups=lambda: group_parameters(
            {**cast.trained, **{loss.name: loss for loss in losses}}, optimizer.groups
        ),
        prepare=[builder.make("prepare", slot, facts=task.facts) for slot in stage.prepare.values()],
        schedule=None if optimizer.schedule is None else builder.make("schedule", optimizer.schedule),
        always_eval=frozen_parts,
    )
    # a batch that is changed on the device may count otherwise than the loader's
    changed = bool(stage.prepare) or type(task).prepare is not Task.prepare
    loaders = (
        StageData(data, losses, look_ahead=not changed)
        if cast.cache is None
        else CachedData(cast.cache, data, losses, look_ahead=not changed)
    )
    return BuiltStage(stage, cast, loaders, distiller, losses)


def _cast(builder: Builder, stage: Stage, task: Task) -> Cast:
    cast = Cast(task, {name: builder.net(name, task.facts) for name in stage.train})
    for name in cast.trained:
        builder.let_learn(name)
    for name in (*stage.teachers, *sorted({ref.model for slot in stage.losses.values() for ref in _refs(slot)})):
        if name not in cast.trained:
            builder.add_teacher(cast, name)
    return cast


def _compare_classes(builder: Builder, stage: Stage, cast: Cast, ours: tuple[str, ...] | None) -> None:
    """A teacher whose classes have another order teaches wrong answers, and no gradient shows it."""
    problems = [
        Problem(
            f"the weights of teacher `{name}` know the classes {_listed(theirs)} in this order, the data has "
            f"{_listed(ours)}",
            "give the data the teacher's order, or take weights that were trained with this one",
            f"models.{name}.weights",
        )
        for name in cast.frozen
        if ours is not None and (theirs := builder.class_names.get(name)) is not None and theirs != ours
    ]
    if problems:
        raise RecipeError(problems)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (f", ... ({len(names)})" if len(names) > 10 else "")


def take(builder: Builder, stage: Stage, place: Path) -> None:
    """Leave the nets and tables as the stage, finished in a folder, left them.

    Args:
        builder: has the nets.
        stage: that is not run again.
        place: its folder.
    """
    if stage.do is not None:
        builder.tables[stage.name] = read_state(place / "table.safetensors")
    facts = builder.task(stage.task, builder.data(stage.data)).facts
    start(builder, stage, facts, but=stage.train)
    for name in stage.train:
        builder.net(name, facts).load_state_dict(read_state(place / f"{name}.safetensors"))


def start(builder: Builder, stage: Stage, facts: Mapping[str, Any], *, but: Collection[str] = ()) -> None:
    """Apply ``init``: weights of one model become the first weights of another.

    Args:
        builder: has the nets.
        stage: whose ``init`` it is.
        facts: of its task.
        but: models that are left out, as a finished stage has their last weights.
    """
    for name, init in stage.init.items():
        if name in but:
            continue
        source, target = builder.net(init.source, facts), builder.net(name, facts)
        wanted = source.state_dict()
        _check_map(stage, name, init, target, wanted)
        if init.map:
            wanted = {
                mine + key.removeprefix(theirs): value
                for mine, theirs in init.map.items()
                for key, value in wanted.items()
                if key == theirs or key.startswith(f"{theirs}.")
            }
        kept = tuple(key for key in target.state_dict() if key not in wanted) if init.map else ()
        for line in fit_state(target, wanted, partial=kept, source=f"model `{init.source}`"):
            builder.say(f"model `{name}`: {line}")


def _refuse_split(stage: Stage, losses: list[BoundLoss]) -> None:
    """A loss over pairs of samples is another one on small batches: accumulating those does not give it back."""
    accumulate = stage.trainer.get("accumulate_grad_batches", 1)
    coupled = [loss.name for loss in losses if loss.loss.relational]
    if coupled and accumulate > 1:
        raise RecipeError(
            [
                Problem(
                    f"loss `{name}` couples the samples of a batch: {accumulate} small batches are not one large one",
                    "leave `trainer.accumulate_grad_batches` at 1 and give the data its full `batch_size`",
                    f"{stage.path}.losses.{name}",
                )
                for name in coupled
            ]
        )


def _check_map(stage: Stage, name: str, init: Init, target: nn.Module, wanted: Mapping[str, Tensor]) -> None:
    """Every pair of a map names something on both sides: one that is misspelt would leave fresh weights unnoticed."""
    for mine, theirs in init.map.items():
        for model, prefix, keys in ((name, mine, target.state_dict()), (init.source, theirs, wanted)):
            if not any(key == prefix or key.startswith(f"{prefix}.") for key in keys):
                modules = {key[:end] for key in keys for end, mark in enumerate(f"{key}.") if mark == "."}
                raise RecipeError(
                    [
                        Problem(
                            f"model `{model}` has no weights at `{prefix}`",
                            suggest(prefix, sorted(modules)),
                            f"{stage.path}.init.{name}.map",
                        )
                    ]
                )


def _freeze(stage: Stage, cast: Cast) -> list[nn.Module]:
    """Stop the gradients of what ``freeze`` names; the modules, which stay in eval mode."""
    frozen: list[nn.Module] = []
    for name, patterns in stage.freeze.items():
        model = cast.trained[name]
        modules = dict(model.named_modules())
        for pattern in patterns:
            found = [key for key in select(list(modules), pattern) if key]
            parameters = select([key for key, _ in model.named_parameters()], pattern)
            if not found and not parameters:
                raise RecipeError(
                    [Problem(f"freeze: `{pattern}` matches nothing in model `{name}`", path=f"{stage.path}.freeze")]
                )
            frozen += [modules[key].requires_grad_(False) for key in found]
            for key in parameters:
                model.get_parameter(key).requires_grad_(False)
    return frozen


class _Losses:
    """Makes a stage's losses: reads what they need, taps the nets, runs them once, binds and sizes."""

    def __init__(self, builder: Builder, stage: Stage, cast: Cast) -> None:
        self._builder = builder
        self._stage = stage
        self._cast = cast
        self._slots = {name: slot for name, slot in stage.losses.items() if slot.weight != 0}

    def build(self) -> list[BoundLoss]:
        """The bound losses, sized by a dry run."""
        losses = {name: self._make(slot) for name, slot in self._slots.items()}
        reads = {name: _reads(slot, losses[name]) for name, slot in self._slots.items()}
        refs = {ref for slot in self._slots.values() for ref in _refs(slot)}
        self._cast.live = frozenset(
            member
            for name, slot in self._slots.items()
            if losses[name].live
            for ref in _refs(slot)
            for member in self._cast.members(ref.model)
        )
        self._tap({ref.model for ref in refs}, {read.source for found in reads.values() for read in found})
        signals = self._dry_run(self._cast.order(refs))
        bound = [one for name, slot in self._slots.items() for one in self._bind(name, slot, losses[name], signals)]
        for loss in bound:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(self._builder.seed, "loss", loss.name))
                loss.setup(signals, self._cast.task.facts, self._cast.module)
        return bound

    def _make(self, slot: LossSlot) -> Loss:
        loss: Loss = self._builder.make("loss", slot, facts=self._cast.task.facts)
        loss.class_axis = self._cast.task.class_axis
        return loss

    def _tap(self, models: set[str], wanted: set[str]) -> None:
        """Hook only what a loss reads."""
        names = {source.removeprefix("tap.").partition("@")[0] for source in wanted if source.startswith("tap.")}
        for model in models:
            paths = {
                tap.name: tap.paths[model]
                for tap in self._stage.taps.values()
                if tap.name in names and model in tap.paths
            }
            if paths:
                self._cast.taps[model] = Taps(self._cast.module(model), paths, model)

    def _bind(self, name: str, slot: LossSlot, loss: Loss, given: Mapping[Ref, Signals]) -> list[BoundLoss]:
        """The loss in its slot; a tap with several activations makes one loss of each, ``kd@0``, ``kd@1``, ...

        A ``joint`` loss is one loss that reads all of them.
        """
        sites: list[tuple[str | None, ...]] = [(site,) for site in _sites(slot, given)]
        if loss.joint and slot.signal is not None:
            sites = [tuple(site for (site,) in sites)]
        tap = self._stage.taps.get((slot.signal or "").removeprefix("tap.").partition("@")[0])
        return [
            BoundLoss(
                name if len(sites) == 1 else f"{name}@{i}",
                loss if i == 0 else self._make(slot),
                weight=self._builder.make("schedule", slot.weight) if isinstance(slot.weight, Slot) else slot.weight,
                roles=slot.roles,
                reads=tuple(_site_reads(loss, slot, signals)),
                resize=slot.resize,
                projector=None if tap is None or tap.project is None else self._projector(tap.project),
                scheduled=any(isinstance(value, Nested) and value.kind == "schedule" for value in slot.args.values()),
                follows_batch=signals == (None,) and not slot.read,
            )
            for i, signals in enumerate(sites)
        ]

    def _projector(self, slot: Slot) -> Callable[[torch.Size, torch.Size], nn.Module]:
        def make(student: torch.Size, teacher: torch.Size) -> nn.Module:
            projector = self._builder.make("projector", slot, student, teacher)
            if not isinstance(projector, nn.Module):
                raise RunError(f"projector `{slot.use}` returned a {type(projector).__name__}, not a module")
            return projector

        return make

    @torch.no_grad()
    def _dry_run(self, order: tuple[Ref, ...]) -> dict[Ref, Signals]:
        """Every signal on two example samples, which tells shapes; eval mode leaves BatchNorm's statistics alone."""
        example = self._cast.task.example(2)
        example["views"] = {ref.view: {} for ref in order if ref.view is not None}
        with evaluating(self._cast.trained.values()):
            return self._cast.run(order, example)


def _reads(slot: LossSlot, loss: Loss) -> tuple[Read, ...]:
    try:
        return reads_of(loss, slot.roles, signal=slot.signal, read=slot.read)
    except RunError as error:
        raise RecipeError([Problem(str(error), path=slot.path)]) from error


def _site_reads(loss: Loss, slot: LossSlot, sites: tuple[str | None, ...]) -> Iterator[Read]:
    """What a loss reads at one site; at several, or where it is joint, each site's signal has a number of its own."""
    for number, site in enumerate(sites):
        for read in reads_of(loss, slot.roles, signal=site, read=slot.read):
            is_bound = site is not None and read.source == site and loss.joint
            if is_bound:
                yield replace(read, name=f"{read.name}@{number}")
            elif number == 0:
                yield read


def _refs(slot: LossSlot) -> list[Ref]:
    return [one for ref in slot.roles.values() for one in (ref if isinstance(ref, tuple) else (ref,))]


def _sites(slot: LossSlot, signals: Mapping[Ref, Signals]) -> list[str | None]:
    """The signal a slot binds, or each of them where a tap yields several."""
    if slot.signal is None:
        return [None]
    found = {ref.model: _found(slot.signal, signals[ref]) for ref in _refs(slot)}
    if len({tuple(names) for names in found.values() if names}) > 1:
        given = ", ".join(f"{len(names)} of `{model}`" for model, names in found.items())
        problem = Problem(
            f"the tap `{slot.signal.removeprefix('tap.')}` gives {given}: which belong together?",
            "let its paths match as many activations in each model, or name one of them as `TAP@0`",
            slot.path,
        )
        raise RecipeError([problem])
    return [*found[_refs(slot)[0].model]] or [slot.signal]


def _found(signal: str, given: Signals) -> list[str]:
    """The signal of this name, or those of a tap that yields several."""
    return [signal] if signal in given else [name for name in given if name.startswith(f"{signal}@")]
