"""From a recipe to objects: the only room that knows every kind of component."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore.binding import BoundLoss, reads_of
from kdcore.cast import Cast
from kdcore.data.base import Data
from kdcore.data.seeds import derive_seed
from kdcore.distiller import Distiller
from kdcore.errors import PluginError, Problem, RecipeError, RunError
from kdcore.hookspecs import Kind
from kdcore.losses.base import Loss
from kdcore.parameters import group_parameters
from kdcore.plugins import Plugins
from kdcore.recipe.content import digest
from kdcore.recipe.schema import LossSlot, ModelSlot, Recipe, Ref, Slot, Stage
from kdcore.registry import Component
from kdcore.run.weights import fit_state, load_state
from kdcore.scores import Scores
from kdcore.signals import Signals
from kdcore.taps import Taps, select
from kdcore.task import Task, set_input_statistics
from kdcore.teachers import Composite, Ensemble, Follower, Frozen
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


@dataclass
class Builder:
    """Makes the objects of one seed of a run. Models are made once and keep their weights from stage to stage.

    Args:
        recipe: what to make.
        plugins: who provides the components.
        seed: of this pass; decides every initial weight together with the slot's own seed and content.
        runs: folder of the runs, for ``run://``.
        say: prints a line for the person who watches.
    """

    recipe: Recipe
    plugins: Plugins
    seed: int
    runs: Path
    say: Callable[[str], None] = print
    pins: dict[str, str] = field(default_factory=dict)
    _models: dict[str, nn.Module | Composite] = field(default_factory=dict)
    _learns: dict[str, set[str]] = field(default_factory=dict)
    _data: dict[str, Data] = field(default_factory=dict)

    # ---- one component

    def make(self, kind: Kind, slot: Slot, *positional: Any, facts: Mapping[str, Any] | None = None) -> Any:
        """Call a component's factory with what the slot says; parameters named like a fact are filled in.

        Raises:
            RecipeError: the factory refuses what it was given.
        """
        component = self.component(kind, slot)
        keywords = {name: self._value(value) for name, value in slot.args.items()}
        for name in component.parameters():
            if name not in keywords and facts is not None and name in facts:
                keywords[name] = facts[name]
        try:
            return component.load()(*positional, **keywords)
        except (TypeError, ValueError) as error:
            raise RecipeError([Problem(f"{kind} `{slot.use}`: {error}", path=slot.path)]) from error

    def component(self, kind: Kind, slot: Slot) -> Component:
        """The component a slot names.

        Raises:
            PluginError: nobody provides it.
        """
        found = self.plugins.find(kind, slot.use)
        if isinstance(found, Problem):
            raise PluginError([Problem(found.message, found.hint, slot.path)])
        return found

    def _value(self, value: Any) -> Any:
        return self.make("schedule", value) if isinstance(value, Slot) else value

    # ---- data, task, models

    def data(self, slot: Slot) -> Data:
        """The data of a slot; equal slots share it."""
        key = digest([slot.use, slot.args])
        if key not in self._data:
            data: Data = self.make("data", slot)
            data.seed = self.seed
            data.prepare_data()
            data.setup("fit")
            self._data[key] = data
        return self._data[key]

    def task(self, slot: Slot, data: Data) -> Task:
        """The task, knowing what the data knows.

        Raises:
            RecipeError: task and data disagree on a fact.
        """
        task: Task = self.make("task", slot, facts=data.facts)
        for name in task.facts.keys() & data.facts.keys():
            if task.facts[name] != data.facts[name]:
                raise RecipeError(
                    [
                        Problem(
                            f"the task has {name} = {task.facts[name]}, the data has {name} = {data.facts[name]}",
                            f"set `{slot.path}.{name}: {data.facts[name]}` or leave it out",
                            f"{slot.path}.{name}",
                        )
                    ]
                )
        task.facts = {**data.facts, **task.facts}
        return task

    def model(self, name: str, facts: Mapping[str, int]) -> nn.Module | Composite:
        """A model of the recipe, made at first use with weights that do not depend on its name."""
        if name not in self._models:
            self._models[name] = self._make_model(self.recipe.models[name], facts)
        return self._models[name]

    def net(self, name: str, facts: Mapping[str, int]) -> nn.Module:
        """Like :meth:`model`, for one that is a net of its own."""
        found = self.model(name, facts)
        if not isinstance(found, nn.Module):
            raise RunError(f"model `{name}` is composed of others; it has no weights of its own")
        return found

    def _make_model(self, slot: ModelSlot, facts: Mapping[str, int]) -> nn.Module | Composite:
        name = slot.path.rpartition(".")[2]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, slot.seed or 0, digest([slot.use, slot.args])))
            model: nn.Module | Composite = self.make("model", slot, facts=facts)
            if not isinstance(model, nn.Module):
                return model
            for edit in slot.edits:
                model = self.make_edit(edit, model)
        if slot.weights is not None:
            state, self.pins[name] = load_state(slot.weights, base=Path.cwd(), runs=self.runs)
            for line in fit_state(model, state, partial=slot.partial, source=slot.weights):
                self.say(f"model `{name}`: {line}")
        set_input_statistics(
            model, None if slot.mean is None else list(slot.mean), None if slot.std is None else list(slot.std)
        )
        if slot.dtype is not None:
            _in_dtype(model, getattr(torch, slot.dtype))
        self._learns[name] = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
        return model

    def make_edit(self, slot: Slot, model: nn.Module) -> nn.Module:
        """Apply an edit, a pure function of a module and plain arguments."""
        edited = self.make("edit", slot, model)
        if not isinstance(edited, nn.Module):
            raise RunError(f"edit `{slot.use}` returned a {type(edited).__name__}, not a module")
        return edited

    # ---- a stage

    def stage(self, stage: Stage) -> BuiltStage:
        """Everything that one stage runs with, ready for a trainer."""
        data = self.data(stage.data)
        task = self.task(stage.task, data)
        cast = self._cast(stage, task)
        self._start(stage, cast, task)
        losses = self._losses(stage, cast)
        frozen_parts = self._freeze(stage, cast)
        for name in cast.trained:
            if self.recipe.models[name].compile:
                # in place and after the taps: hooks that come later never fire
                cast.trained[name].compile()
        # what the nets give when everything runs may need every rebound count to come from the predictions
        prepared = bool(stage.prepare) or type(task).prepare is not Task.prepare
        optimizer = stage.optimizer
        distiller = Distiller(
            stage.name,
            cast,
            losses=losses,
            scores={name: self.scores(stage, task) for name in cast.trained},
            teachers=stage.teachers,
            optimizer=lambda groups: self.make("optimizer", optimizer, groups),
            parameter_groups=lambda _: group_parameters(
                {**cast.trained, **{loss.name: loss for loss in losses}}, optimizer.groups
            ),
            prepare=[self.make("prepare", slot, facts=task.facts) for slot in stage.prepare.values()],
            schedule=None if optimizer.schedule is None else self.make("schedule", optimizer.schedule),
            always_eval=frozen_parts,
        )
        return BuiltStage(stage, cast, StageData(data, losses, look_ahead=not prepared), distiller, losses)

    def scores(self, stage: Stage, task: Task) -> Scores:
        """The metrics of a stage, empty; the task's primary metric is always among them."""
        slots = dict(stage.metrics)
        slots.setdefault(task.primary[0], Slot(f"metrics.{task.primary[0]}", task.primary[0]))
        facts = {**task.facts, "class_axis": task.class_axis}
        return Scores({name: self.make("metric", slot, facts=facts) for name, slot in slots.items()})

    def bare_cast(self, names: tuple[str, ...], task: Task) -> Cast:
        """These models, all frozen, to be scored or exported."""
        cast = Cast(task, {})
        for name in names:
            self._add_teacher(cast, name)
        return cast

    def _cast(self, stage: Stage, task: Task) -> Cast:
        cast = Cast(task, {name: self.net(name, task.facts) for name in stage.train})
        for name, module in cast.trained.items():
            for key, parameter in module.named_parameters():
                parameter.requires_grad_(key in self._learns[name])
        for name in (*stage.teachers, *self._other_roles(stage)):
            if name not in cast.trained:
                self._add_teacher(cast, name)
        return cast

    def _other_roles(self, stage: Stage) -> list[str]:
        bound = [ref for slot in stage.losses.values() for ref in slot.roles.values()]
        refs = [one for ref in bound for one in (ref if isinstance(ref, tuple) else (ref,))]
        return sorted({ref.model for ref in refs if ref.model in self.recipe.models})

    def _add_teacher(self, cast: Cast, name: str) -> None:
        model = self.model(name, cast.task.facts)
        if isinstance(model, Ensemble):
            cast.ensembles[name] = model
            for member in model.of:
                if member not in cast.trained:
                    self._add_teacher(cast, member)
        elif isinstance(model, Follower):
            if model.of in cast.trained:
                model.follow(cast.trained[model.of])
            cast.followers[name] = model
        elif name not in cast.frozen:
            slot = self.recipe.models[name]
            cast.frozen[name] = Frozen(model, None if slot.dtype is None else getattr(torch, slot.dtype))

    def _start(self, stage: Stage, cast: Cast, task: Task) -> None:
        """Apply ``init``: weights of one model become the first weights of another."""
        for name, init in stage.init.items():
            source, target = self.net(init.source, task.facts), cast.module(name)
            wanted = source.state_dict()
            if init.map:
                wanted = {
                    mine + key.removeprefix(theirs): value
                    for mine, theirs in init.map.items()
                    for key, value in wanted.items()
                    if key == theirs or key.startswith(f"{theirs}.")
                }
            kept = tuple(key for key in target.state_dict() if key not in wanted) if init.map else ()
            for line in fit_state(target, wanted, partial=kept, source=f"model `{init.source}`"):
                self.say(f"model `{name}`: {line}")

    def _freeze(self, stage: Stage, cast: Cast) -> list[nn.Module]:
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
                for key in found:
                    modules[key].requires_grad_(False)
                    frozen.append(modules[key])
                for key in parameters:
                    model.get_parameter(key).requires_grad_(False)
        return frozen

    # ---- losses

    def _losses(self, stage: Stage, cast: Cast) -> list[BoundLoss]:
        slots = {name: slot for name, slot in stage.losses.items() if slot.weight != 0}
        made: dict[str, Loss] = {name: self._loss(slot, cast.task) for name, slot in slots.items()}
        reads = {name: _reads(slot, made[name]) for name, slot in slots.items()}
        cast.live = frozenset(
            ref.model for name, slot in slots.items() if made[name].live for ref in _refs(slot) if ref.model in cast.frozen
        )
        wanted = {read.source for found in reads.values() for read in found}
        for name in {ref.model for slot in slots.values() for ref in _refs(slot)}:
            paths = {
                tap.name: tap.paths[name]
                for tap in stage.taps.values()
                if name in tap.paths and any(_is_tap(source, tap.name) for source in wanted)
            }
            if paths:
                cast.taps[name] = Taps(cast.module(name), paths, name)
        refs = {ref for slot in slots.values() for ref in _refs(slot)}
        signals = self._dry_run(cast, cast.order(refs))
        losses = [
            bound
            for name, slot in slots.items()
            for bound in self._bind(name, slot, made[name], stage, cast, signals)
        ]
        for loss in losses:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(self.seed, "loss", loss.name))
                loss.setup(signals, cast.task.facts, cast.module)
        return losses

    def _loss(self, slot: LossSlot, task: Task) -> Loss:
        loss: Loss = self.make("loss", slot, facts=task.facts)
        loss.class_axis = task.class_axis
        return loss

    def _bind(
        self, name: str, slot: LossSlot, loss: Loss, stage: Stage, cast: Cast, signals: Mapping[Ref, Signals]
    ) -> list[BoundLoss]:
        """The loss in its slot; a tap with several activations makes one loss of each, ``kd@0``, ``kd@1``, ..."""
        sites = _sites(slot, signals)
        tap = stage.taps.get((slot.signal or "").removeprefix("tap.").partition("@")[0])
        project = tap.project if tap is not None else None
        bound = []
        for i, signal in enumerate(sites):
            bound.append(
                BoundLoss(
                    name if len(sites) == 1 else f"{name}@{i}",
                    loss if i == 0 else self._loss(slot, cast.task),
                    weight=self._value(slot.weight),
                    roles=slot.roles,
                    reads=reads_of(loss, slot.roles, signal=signal, read=slot.read),
                    resize=slot.resize,
                    projector=None if project is None else self._projector(project),
                    follows_batch=signal is None and not slot.read,
                )
            )
        return bound

    def _projector(self, slot: Slot) -> Callable[[torch.Size, torch.Size], nn.Module]:
        def make(student: torch.Size, teacher: torch.Size) -> nn.Module:
            projector = self.make("projector", slot, student, teacher)
            if not isinstance(projector, nn.Module):
                raise RunError(f"projector `{slot.use}` returned a {type(projector).__name__}, not a module")
            return projector

        return make

    @torch.no_grad()
    def _dry_run(self, cast: Cast, order: tuple[Ref, ...]) -> dict[Ref, Signals]:
        """Every signal on two example samples, which tells shapes; eval mode keeps BatchNorm's statistics as they are."""
        training = {name: module.training for name, module in cast.trained.items()}
        for module in cast.trained.values():
            module.eval()
        example = cast.task.example(2)
        example["views"] = {ref.view: {} for ref in order if ref.view is not None}
        try:
            return cast.run(order, example)
        finally:
            for name, module in cast.trained.items():
                module.train(training[name])


def _reads(slot: LossSlot, loss: Loss) -> tuple[Any, ...]:
    try:
        return reads_of(loss, slot.roles, signal=slot.signal, read=slot.read)
    except RunError as error:
        raise RecipeError([Problem(str(error), path=slot.path)]) from error


def _refs(slot: LossSlot) -> list[Ref]:
    return [one for ref in slot.roles.values() for one in (ref if isinstance(ref, tuple) else (ref,))]


def _is_tap(source: str, name: str) -> bool:
    return source == f"tap.{name}" or source.startswith(f"tap.{name}@")


def _sites(slot: LossSlot, signals: Mapping[Ref, Signals]) -> list[str | None]:
    """The signal a slot binds, or each of them where a tap yields several."""
    if slot.signal is None:
        return [None]
    given = signals[_refs(slot)[0]]
    several = [name for name in given if name.startswith(f"{slot.signal}@")]
    return list(several) if slot.signal not in given and several else [slot.signal]


def _in_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Weights in ``dtype``, and floating-point inputs cast on the way in."""
    model.to(dtype)

    def cast_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            arg.to(dtype) if isinstance(arg, torch.Tensor) and arg.is_floating_point() else arg for arg in args
        )

    model.register_forward_pre_hook(cast_inputs)
