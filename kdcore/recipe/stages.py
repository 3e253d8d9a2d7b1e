"""The stages of a recipe, each made complete with what the recipe says at its top."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from kdcore.errors import did_you_mean
from kdcore.hookspecs import Kind
from kdcore.recipe.context import Context
from kdcore.recipe.data import check_table, read_data
from kdcore.recipe.losses import LeftOut, Roles, needs_teacher, read_loss, read_taps
from kdcore.recipe.models import COMPOSITES, FOLLOWERS, Models, refuse_equal
from kdcore.recipe.nodes import Merge, Node
from kdcore.recipe.overrides import REPLACED
from kdcore.recipe.schema import DataSlot, LossSlot, Slot, Stage
from kdcore.recipe.start import read_cache, read_freeze, read_init
from kdcore.recipe.trainer import DEFAULT_OPTIMIZER, read_optimizer, read_trainer

MERGED = ("data", "optimizer", "trainer", "task")
"""Sections of a stage that are merged into the recipe's."""

KEYS = ("train", "teachers", "do", *REPLACED, *MERGED, "init", "freeze", "cache", "keep", "once")
ACTION_KEYS = ("do", "data", "task", "once")
"""Keys of a stage that runs an action instead of training."""


def stage_nodes(context: Context, root: Node, alone: bool) -> dict[str, Node]:
    """The stages as written; without any, the student alone and then the student taught by the teacher.

    Args:
        alone: whether the student alone is wanted; otherwise the stage of that name is skipped.
    """
    stages = root.items.get("stages")
    if stages is not None and stages.value is not None:
        nodes = context.named(stages)
        if not nodes and isinstance(stages.value, dict):
            context.error(stages, "holds no stage", "remove it to train the student alone and then distilled")
    else:
        nodes = {
            "alone": Node({"train": Node("alone")}),
            "distil": Node({"train": Node("student"), "teachers": Node("teacher")}),
        }
        models = context.mapping(root.items.get("models"))
        missing = [name for name in ("student", "teacher") if name not in models]
        if missing and models:
            hint = "call the two models `student` and `teacher`, or write `stages:`"
            names = " and no ".join(f"`{name}`" for name in missing)
            context.error(root.items["models"], f"there is no {names}, and no `stages:` that says what to train", hint)
            return {}
    return {name: node for name, node in nodes.items() if alone or name != "alone"}


def _refuse_other_devices(context: Context, nodes: Mapping[str, Node], stages: Mapping[str, Stage]) -> None:
    """The processes of a run are started once, and every stage runs in all of them."""
    training = [stage for stage in stages.values() if stage.train]
    for stage in training[1:]:
        for key in DEVICES:
            first, here = training[0].trainer.get(key), stage.trainer.get(key)
            if first != here:
                what = f"stage `{stage.name}` has `{key}: {here}`, stage `{training[0].name}` has `{key}: {first}`"
                hint = "write it in the recipe's `trainer:`, once for all stages"
                context.error(nodes[stage.name].items.get("trainer", nodes[stage.name]), what, hint)


def read_stages(context: Context, root: Node, nodes: Mapping[str, Node], models: Models) -> dict[str, Stage]:
    """Check the stages in order; later ones may build on the models that earlier ones trained."""
    ready: set[str] = set()
    stages: dict[str, Stage] = {}
    for name, node in nodes.items():
        if _TAKEN.fullmatch(name):
            context.error(node, f"a stage cannot be called `{name}`", "the run folder has one of that name already")
        stages[name] = _Reader(context, root, models, name, node, ready, dict(stages)).read()
    _refuse_other_devices(context, nodes, stages)
    cache = root.items.get("cache")
    of = None if cache is None else cache.items.get("of")
    taught = {teacher for stage in stages.values() for teacher in stage.teachers}
    if of is not None and isinstance(of.value, str) and of.value in models.nodes and of.value not in taught:
        context.error(of, f"model {of.show()} teaches in no stage", did_you_mean(of.value, taught))
    return stages


DEVICES = ("accelerator", "devices", "num_nodes", "strategy")
"""Settings of the trainer that say which processes there are."""

_TAKEN = re.compile(r"seed-\d+|wandb")


@dataclass
class _Reader:
    """Reads one stage.

    Attributes:
        ready: models that hold weights worth having when the stage starts; the stage adds its own.
        before: the stages read so far.
    """

    context: Context
    root: Node
    models: Models
    name: str
    node: Node
    ready: set[str]
    before: Mapping[str, Stage]

    @property
    def path(self) -> str:
        return f"stages.{self.name}"

    def read(self) -> Stage:
        """The stage. Where it has errors, it is only good for checking the next ones."""
        items = self.context.mapping(self.node)
        action = "do" in items
        if action and "train" in items:
            self.context.error(items["train"], "a stage either trains or does something", "make two stages of it")
        elif action:
            for key in items.keys() & (set(KEYS) - set(ACTION_KEYS)):
                self.context.error(
                    items[key], "means nothing in a stage with `do:`", f"known: {', '.join(ACTION_KEYS)}"
                )
        self.context.known_keys(self.node, KEYS, "a stage")
        once = self.context.convert(items.get("once"), "bool", False)
        task, data = self._task(), self._data()
        self._check_facts(action)
        if action:
            do = self.context.slot("action", items["do"], f"{self.path}.do")
            stage = Stage(self.name, self.path, task, data, do=do, once=once)
            self._check_once(stage, set(self.models.nodes))
            return stage
        return self._training(task, data, once)

    def _training(self, task: Slot, data: DataSlot, once: bool) -> Stage:
        items, path = self.node.items, self.path
        train, teachers = self._cast()
        taps = read_taps(self.context, self._section("taps"), Roles(self.name, train, teachers, self.models.nodes, {}))
        roles = Roles(self.name, train, teachers, self.models.nodes, taps)
        losses, without = self._losses(roles)
        metrics, without_metrics = self._metrics(roles)
        optimizer = self._merged("optimizer", DEFAULT_OPTIMIZER) or DEFAULT_OPTIMIZER
        init = read_init(self.context, items.get("init"), self.name, (*train, *teachers), self.models)
        stage = Stage(
            self.name,
            path,
            task,
            data,
            train,
            teachers,
            losses=losses,
            taps=taps,
            prepare=self._slots("prepare", "prepare"),
            metrics=metrics,
            callbacks=self._slots("callback", "callbacks"),
            optimizer=read_optimizer(self.context, optimizer, self._path_of("optimizer")),
            trainer=read_trainer(self.context, self._merged("trainer")),
            init=init,
            freeze=read_freeze(self.context, items.get("freeze"), self.name, train),
            cache=read_cache(self.context, items.get("cache"), self.root.items.get("cache"), roles, self.models),
            keep=self.context.convert(items.get("keep"), 'Literal["best", "last"]', "best"),
            once=once,
            left_out=(*without, *without_metrics),
        )
        self.ready |= {*train, *init}
        self._check_taught(stage)
        bound = [ref for loss in losses.values() for ref in loss.roles.values()]
        roled = {one.model for ref in bound for one in (ref if isinstance(ref, tuple) else (ref,))}
        named = {*train, *teachers, *roled, *(one.source for one in init.values())}
        self._check_once(stage, named.union(*(self.models.members(name) for name in named)))
        return stage

    def _check_once(self, stage: Stage, models: set[str]) -> None:
        """A stage that is run once for all seeds cannot build on what each seed has of its own."""
        if not stage.once:
            return
        for earlier in self.before.values():
            if not earlier.once and (models & set(earlier.train) or stage.data.table == earlier.name):
                what = f"stage `{stage.name}` runs once for all seeds, but builds on `{earlier.name}`, which does not"
                hint = f"write `once: true` in `{earlier.name}` too, or take it out here"
                self.context.error(self.node.items["once"], what, hint)

    # ---- what the recipe says at its top

    def _merged(self, key: str, default: Node | None = None) -> Node | None:
        found = default
        for node in (self.root.items.get(key), self.node.items.get(key)):
            if node is not None:
                found = node if found is None else Merge(self.context.warnings, lambda same: same)(found, node)
        return found

    def _section(self, key: str) -> dict[str, Node]:
        node = self.node.items.get(key, self.root.items.get(key))
        return self.context.modules(node) if key in ("losses", "metrics") else self.context.named(node)

    def _path_of(self, key: str) -> str:
        return f"{self.path}.{key}" if key in self.node.items else key

    def _task(self) -> Slot:
        node = self._merged("task")
        return (None if node is None else self.context.slot("task", node, self._path_of("task"))) or Slot("", "")

    def _data(self) -> DataSlot:
        node = self._merged("data")
        data = None if node is None else read_data(self.context, node, self._path_of("data"))
        if node is not None and data is not None and data.table is not None:
            check_table(self.context, node.items["table"], data.table, self.name, self.before)
        return data or DataSlot("", "")

    def _slots(self, kind: Kind, key: str) -> dict[str, Slot]:
        slots = {name: self.context.slot(kind, node) for name, node in self._section(key).items()}
        return {name: slot for name, slot in slots.items() if slot is not None}

    # ---- models

    def _cast(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The models that are trained and those that teach."""
        train_node = self.node.items.get("train", self.node)
        train = self._names("train")
        teachers = self._names("teachers")
        if "train" not in self.node.items or (not train and train_node.value in (None, [])):
            self.context.error(
                train_node, f"stage `{self.name}` trains nothing", "add `train: MODEL`, or `do: {use: ACTION}`"
            )
        for name in train:
            if self.models.use(name) in COMPOSITES:
                self.context.error(train_node, f"`{name}` is composed of other models and cannot be trained")
            if len(train) == 1 and name in teachers:
                hint = "name another teacher, or an ema of it"
                self.context.error(self.node.items["teachers"], f"`{name}` would be its own teacher", hint)
        for one, other in combinations(train, 2):
            if not {one, other} & set(self.context.mapping(self.node.items.get("init"))):
                refuse_equal(self.context, self.models, train_node, one, other)
        return train, teachers

    def _names(self, key: str) -> tuple[str, ...]:
        names = []
        for child in self.context.word_nodes(self.node.items.get(key)):
            if child.value not in self.models.nodes:
                self.context.error(
                    child, f"there is no model {child.show()}", did_you_mean(str(child.value), self.models.nodes)
                )
            else:
                names.append(str(child.value))
        return tuple(names)

    def _check_taught(self, stage: Stage) -> None:
        """Every teacher knows something: it was trained before, or has weights, or follows who is trained here."""
        for name in stage.teachers:
            place = self.node.items["teachers"]
            node = place if place.mark.path else self.models.nodes[name]
            for member in [name, *self._members(name)]:
                of = self.models.members(member)
                if self.models.use(member) in FOLLOWERS and not set(of) <= set(stage.train):
                    hint = f"train `{of[0]}` in this stage, or name it as the teacher itself"
                    self.context.error(
                        node, f"`{member}` follows `{of[0]}`, which stage `{self.name}` does not train", hint
                    )
                elif not of and member not in self.ready and not self.models.has_weights(member):
                    self.context.error(
                        node,
                        f"the teacher `{member}` is untrained in stage `{self.name}`: no earlier stage trains it",
                        f"give it weights (models.{member}.weights: FILE), or train it in an earlier stage",
                    )

    def _members(self, name: str) -> list[str]:
        return self.models.members(name) if self.models.use(name) == "ensemble" else []

    def _check_facts(self, action: bool) -> None:
        """One number of classes: what the task or the data says, the data and every model of the stage say too."""
        names = () if action else (*self._quiet_names("train"), *self._quiet_names("teachers"))
        given = [node for node in (self._merged("task"), self._merged("data")) if node is not None]
        nodes = [*given, *(self.models.nodes[name] for name in names if name in self.models.nodes)]
        for fact in sorted(self.context.facts):
            first = next((node.items[fact] for node in given if fact in node.items), None)
            for node in nodes:
                said = node.items.get(fact)
                if first is None or said is None or said.value in (first.value, None):
                    continue
                where = f" ({first.mark.file}:{first.mark.line})" if first.mark.line else ""
                hint = "leave it out: it is filled in from the task and the data"
                self.context.error(said, f"is {said.show()}, but {first.mark.path} is {first.show()}{where}", hint)

    def _quiet_names(self, key: str) -> list[str]:
        node = self.node.items.get(key, Node(None))
        nodes: Sequence[Node] = node.value if isinstance(node.value, list) else [node]
        return [child.value for child in nodes if isinstance(child.value, str)]

    # ---- losses and metrics

    def _losses(self, roles: Roles) -> tuple[dict[str, LossSlot], list[str]]:
        """The losses, and the names of those left out because they need a teacher."""
        losses: dict[str, LossSlot] = {}
        left_out = []
        nodes = self._section("losses")
        for name, node in nodes.items():
            loss = read_loss(self.context, name, node, roles)
            if isinstance(loss, LeftOut):
                left_out.append(f"losses.{name}")
            elif loss is not None:
                losses[name] = loss
            if name in roles.train:
                message = f"the loss `{name}` bears the name of a model that stage `{self.name}` trains"
                self.context.error(node, message, "call it otherwise: `optimizer.groups` names parameters by both")
        broken = len(nodes) > len(losses) + len(left_out)
        if roles.train and not broken and all(loss.weight == 0 for loss in losses.values()):
            place = self.node.items.get("losses", self.root.items.get("losses", self.node))
            why = f"left out for want of a teacher: {', '.join(left_out)}" if left_out else "no loss has a weight"
            hint = f"{why}; give it losses of its own, or `teachers:`" if left_out else "add `losses:`"
            self.context.error(place, f"stage `{self.name}` has no loss left", hint)
        return losses, left_out

    def _metrics(self, roles: Roles) -> tuple[dict[str, Slot], list[str]]:
        metrics: dict[str, Slot] = {}
        left_out = []
        for name, node in self._section("metrics").items():
            slot = self.context.slot("metric", node)
            if slot is None:
                continue
            if not roles.teachers and needs_teacher(self.context, node):
                left_out.append(f"metrics.{name}")
            else:
                metrics[name] = slot
        return metrics, left_out
