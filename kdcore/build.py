"""From a recipe to objects: the only room that knows every kind of component."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcore.cast import Cast
from kdcore.data.augment import Chain
from kdcore.data.base import Data, Treatment
from kdcore.data.seeds import derive_seed
from kdcore.errors import Problem, RecipeError, RunError
from kdcore.hookspecs import Kind
from kdcore.plugins import Plugins
from kdcore.recipe.content import digest
from kdcore.recipe.schema import DataSlot, ModelSlot, Nested, Recipe, Slot, Stage
from kdcore.registry import Component
from kdcore.scores import Scores
from kdcore.task import Task, set_input_statistics
from kdcore.teachers import Composite, Ensemble, Follower, Frozen
from kdcore.weights.about import classes_of
from kdcore.weights.fitting import fit_state
from kdcore.weights.uris import local_file, scheme_of


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
    tables: dict[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    """What the stages with `do` have written, by stage."""
    class_names: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    """The classes that the weights of a model were trained for, where they or a card beside them say so."""
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
            RecipeError: nobody provides it.
        """
        found = self.plugins.find(kind, slot.use)
        if isinstance(found, Problem):
            raise RecipeError([replace(found, path=slot.path)])
        return found

    def _value(self, value: Any) -> Any:
        if not isinstance(value, Nested):
            return value
        return self._make_data(value) if value.kind == "data" else self.make("schedule", value)

    # ---- data, task, models

    @property
    def data_notes(self) -> list[str]:
        """What a person should know of the data that was used so far, each once."""
        return list(dict.fromkeys(note for data in self._data.values() for note in data.notes))

    def data(self, slot: DataSlot) -> Data:
        """The data of a slot; equal slots share it."""
        key = digest([slot, slot.order])
        if key not in self._data:
            self._data[key] = self._make_data(slot)
            self._data[key].treatment = self._treatment(slot)
        return self._data[key]

    def _make_data(self, slot: Slot) -> Data:
        data: Data = self.make("data", slot)
        data.seed = self.seed
        data.prepare_data()
        data.setup("fit")
        return data

    def _treatment(self, slot: DataSlot) -> Treatment:
        def chain(slots: Mapping[str, Slot]) -> Chain:
            return Chain({name: self.make("transform", one) for name, one in slots.items()})

        return Treatment(
            stage=slot.table,
            table=lambda: self._table(slot),
            chain=chain(slot.transform),
            views={name: chain(slots) for name, slots in slot.views.items()},
            variants=slot.variants,
            labelled=slot.samples == "labelled",
        )

    def _table(self, slot: DataSlot) -> Mapping[str, torch.Tensor]:
        if slot.table not in self.tables:
            raise RunError(f"`{slot.path}.table` wants the table of stage `{slot.table}`, which has not been run")
        return self.tables[slot.table]

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

    def model(self, name: str, facts: Mapping[str, Any]) -> nn.Module | Composite:
        """A model of the recipe, made at first use with weights that do not depend on its name."""
        if name not in self._models:
            self._models[name] = self._make_model(self.recipe.models[name], facts)
        return self._models[name]

    def net(self, name: str, facts: Mapping[str, Any]) -> nn.Module:
        """Like :meth:`model`, for one that is a net of its own."""
        found = self.model(name, facts)
        if not isinstance(found, nn.Module):
            raise RunError(f"model `{name}` is composed of others; it has no weights of its own")
        return found

    def _make_model(self, slot: ModelSlot, facts: Mapping[str, Any]) -> nn.Module | Composite:
        name = slot.path.rpartition(".")[2]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, slot.seed or 0, digest([slot.use, slot.args])))
            model: nn.Module | Composite = self.make("model", slot, facts=facts)
            if not isinstance(model, nn.Module):
                return model
            for edit in slot.edits:
                model = self.make_edit(edit, model)
        if slot.weights is not None:
            self._load(name, slot, slot.weights, model)
        # a factory may know what its net was trained with; the recipe's word goes before it
        mean, std = (statistic(model, kind) if own is None else list(own) for kind, own in _statistics(slot))
        if slot.dtype is not None:
            _in_dtype(model, getattr(torch, slot.dtype))
        # after the weights' own type, which would round them
        set_input_statistics(model, mean, std)
        self._learns[name] = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
        return model

    def _load(self, name: str, slot: ModelSlot, uri: str, model: nn.Module) -> None:
        # the address as it was pinned when this run began, so that a resumed run reads the same weights
        address = self.pins.get(name, uri)
        component = self.component("weights", Slot(f"{slot.path}.weights", scheme_of(address)))
        state, self.pins[name] = component.load()(address, runs=self.runs)
        # a head that is allowed not to fit speaks of other classes
        file = local_file(self.pins[name], runs=self.runs)
        self.class_names[name] = None if slot.partial else classes_of(state, file)
        for line in fit_state(model, state, partial=slot.partial, source=uri):
            self.say(f"model `{name}`: {line}")

    def make_edit(self, slot: Slot, model: nn.Module) -> nn.Module:
        """Apply an edit, a pure function of a module and plain arguments."""
        edited = self.make("edit", slot, model)
        if not isinstance(edited, nn.Module):
            raise RunError(f"edit `{slot.use}` returned a {type(edited).__name__}, not a module")
        return edited

    def let_learn(self, name: str) -> None:
        """Give a model's parameters their gradients back: it may have been a frozen teacher, or part frozen, before."""
        for key, parameter in self.net(name, {}).named_parameters():
            parameter.requires_grad_(key in self._learns[name])

    # ---- what several stages need

    def scores(self, stage: Stage, task: Task) -> Scores:
        """The metrics of a stage, empty; the task's primary metric is always among them."""
        slots = dict(stage.metrics)
        name = task.primary[0]
        # a plugin's task means its own plugin's metric, where there is one of that name
        own = ".".join([*stage.task.use.split(".")[:-1], name])
        use = name if self.plugins.registry.get("metric", own) is None else own
        slots.setdefault(name, Slot(f"metrics.{name}", use))
        facts = {**task.facts, "class_axis": task.class_axis}
        return Scores({name: self.make("metric", slot, facts=facts) for name, slot in slots.items()})

    def bare_cast(self, names: tuple[str, ...], task: Task) -> Cast:
        """These models, all frozen, to be scored or exported."""
        cast = Cast(task, {})
        for name in names:
            self.add_teacher(cast, name)
        return cast

    def add_teacher(self, cast: Cast, name: str) -> None:
        """Give a cast one teacher, with the members of an ensemble and the model a follower follows."""
        model = self.model(name, cast.task.facts)
        if isinstance(model, Ensemble):
            cast.ensembles[name] = model
            for member in model.of:
                if member not in cast.trained:
                    self.add_teacher(cast, member)
        elif isinstance(model, Follower):
            cast.followers[name] = model
        elif name not in cast.frozen:
            slot = self.recipe.models[name]
            cast.frozen[name] = Frozen(model, None if slot.dtype is None else getattr(torch, slot.dtype))


def _statistics(slot: ModelSlot) -> tuple[tuple[str, tuple[float, ...] | None], ...]:
    return ("input_mean", slot.mean), ("input_std", slot.std)


def statistic(model: nn.Module, kind: str) -> list[float] | None:
    """``input_mean`` or ``input_std`` of a net, as :func:`kdcore.task.set_input_statistics` has set it."""
    found = getattr(model, kind, None)
    return found.flatten().tolist() if isinstance(found, torch.Tensor) else None


def _in_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Weights in ``dtype``, and floating-point inputs cast on the way in."""
    model.to(dtype)

    def cast_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            arg.to(dtype) if isinstance(arg, torch.Tensor) and arg.is_floating_point() else arg for arg in args
        )

    model.register_forward_pre_hook(cast_inputs)
