"""Losses, metrics and taps of one stage: which models their roles are, and whether they need a teacher."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdcore.errors import did_you_mean
from kdcore.recipe.context import NAME, Context
from kdcore.recipe.nodes import Node
from kdcore.recipe.schema import LossSlot, Ref, Slot, Tap
from kdcore.registry import Component, Parameter

CORE = ("weight", "at", "signal", "read", "resize", "student", "teacher")
"""Keys of a loss's slot that the core owns; the roles of its ``forward`` come on top."""

TAP_KEYS = ("student", "teacher", "project")
"""Keys of a tap, besides the names of models."""

_DEFAULT_NEEDS = frozenset({"student.logits", "teacher.logits"})
_SIGNAL = re.compile(r"[^\W\d]\w*(\.[\w.@]+)+")


@dataclass(frozen=True)
class Roles:
    """Who takes part in a stage.

    Attributes:
        stage: its name.
        train: the models it trains.
        teachers: the models that teach in it.
        models: all models of the recipe.
        taps: the taps there are.
    """

    stage: str
    train: tuple[str, ...]
    teachers: tuple[str, ...]
    models: Mapping[str, Node]
    taps: Mapping[str, Tap]

    def standing_for(self, word: str) -> tuple[str, ...]:
        """A model's name is itself; ``student`` and ``teacher`` stand for the stage's, where no model is called so."""
        if word in self.models:
            return (word,)
        return {"student": self.train, "teacher": self.teachers}.get(word, ())


class LeftOut:
    """What :func:`read_loss` gives for a loss that needs a teacher in a stage without one."""


def read_taps(context: Context, nodes: Mapping[str, Node], roles: Roles) -> dict[str, Tap]:
    """``{deep: {student: PATH, teacher: PATH, project: conv1x1}}``."""
    taps = {}
    for name, node in nodes.items():
        paths: dict[str, str] = {}
        for key, child in context.mapping(node).items():
            if key == "project":
                continue
            if key not in (known := [*roles.models, *TAP_KEYS]):
                context.error(child, f"`{key}` is no model", did_you_mean(key, known))
            path = context.convert(child, "str")
            if path is None:
                continue
            if not path.strip():
                context.error(child, "is empty, but must be the path of a layer", "`kdcore inspect` lists them")
            paths |= dict.fromkeys(roles.standing_for(key), path)
        taps[name] = Tap(name, f"taps.{name}", paths, _project(context, node.items.get("project"), f"taps.{name}"))
    return taps


def _project(context: Context, node: Node | None, path: str) -> Slot | None:
    if node is None or node.value is None:
        return None
    if isinstance(node.value, str):
        node = Node({"use": node}, node.mark)
    return context.slot("projector", node, f"{path}.project")


def read_loss(context: Context, name: str, node: Node, roles: Roles) -> LossSlot | LeftOut | None:
    """One loss of a stage; ``None`` where it has errors."""
    before = len(context.problems)
    component = context.component("loss", node)
    if component is None:
        return None
    none: dict[str, Parameter] = {}
    further = context.read_source(node, lambda: component.keywords_of("forward"), none)
    core = (*CORE, *further)
    slot = context.arguments("loss", component, node, core=core)
    bound = {
        role: _refs(context, node.items[role], roles) for role in ("student", "teacher", *further) if role in node.items
    }
    read = _read(context, node, component, ("student", "teacher", *further))
    weight = _weight(context, node.items.get("weight"))
    signal = _signal(context, node, roles)
    resize = context.convert(node.items.get("resize"), 'Literal["student", "teacher"] | None')
    if slot is None or len(context.problems) > before:
        return None
    needed = _needed(context, node, component, read) | {role for role in further if further[role].required}
    if _is_left_out(roles, needed, bound):
        return LeftOut()
    _check_roles(context, name, node, roles, needed, bound)
    if len(context.problems) > before:
        return None
    defaults = {"student": roles.train[:1], "teacher": roles.teachers[:1]}
    given: dict[str, Ref | tuple[Ref, ...]] = {
        role: Ref(model) for role, models in defaults.items() for model in models
    }
    return LossSlot(slot.path, slot.use, slot.args, weight, given | bound, signal, read, resize)


def needs_teacher(context: Context, node: Node) -> bool:
    """Whether a metric compares a student with its teachers."""
    component = context.component("metric", node)
    return component is not None and context.literal(node, component, "takes", "") == "student_teacher"


def _weight(context: Context, node: Node | None) -> Any:
    weight = context.convert(node, "Scheduled", 1.0)
    if node is not None and isinstance(weight, float) and not (0 <= weight < math.inf):
        context.error(node, f"is {node.show()}, but a weight is 0 or more", "0 leaves the loss out")
    return weight


def _signal(context: Context, node: Node, roles: Roles) -> str | None:
    """The signal that ``at:`` or ``signal:`` names."""
    at, signal = node.items.get("at"), node.items.get("signal")
    if at is not None and signal is not None:
        context.error(signal, "`at` and `signal` both say what to read", "keep one of them")
    where = at if at is not None else signal
    text: str | None = context.convert(where, "str | None")
    if where is None or text is None:
        return None
    name = text if at is not None else text.removeprefix("tap.") if text.startswith("tap.") else None
    if name is not None:
        _check_tap(context, where, name, roles)
    return f"tap.{name}" if name is not None else text


def _check_tap(context: Context, node: Node, name: str, roles: Roles) -> None:
    if name.partition("@")[0] not in roles.taps:
        hint = did_you_mean(name, roles.taps) or "add it: taps: {NAME: {student: PATH, teacher: PATH}}"
        context.error(node, f"{node.show()} names no tap", hint)


def _read(context: Context, node: Node, component: Component, known: tuple[str, ...]) -> dict[str, str]:
    """``{teacher.logits: student.exit1}``: what the loss reads -> where it is read instead."""
    where = node.items.get("read")
    pairs: dict[str, str] = context.convert(where, "dict[str, str]", {})
    needs = context.literal(node, component, "needs", _DEFAULT_NEEDS)
    for key, source in pairs.items():
        child = where.items[key] if where is not None else node
        if key not in needs:
            context.error(child, f"loss `{component.name}` does not read `{key}`", did_you_mean(key, needs))
        if not _SIGNAL.fullmatch(source):
            context.error(child, f"{child.show()} is no signal of a role", "write role.signal, such as student.logits")
        elif (role := source.partition(".")[0]) not in known:
            context.error(child, f"{child.show()} is of no role of loss `{component.name}`", did_you_mean(role, known))
    return pairs


def _refs(context: Context, node: Node, roles: Roles) -> Ref | tuple[Ref, ...]:
    """The models bound to a role: ``teacher``, ``teacher@weak``, or a list of them."""
    refs: list[Ref] = []
    for child in context.word_nodes(node):
        name, at, view = str(child.value).partition("@")
        stands_for = roles.standing_for(name)
        if at and not NAME.fullmatch(view):
            context.error(child, f"{child.show()} names no view after the @", "write model@view")
        if not stands_for and name not in ("student", "teacher"):
            context.error(child, f"{child.show()} names no model", did_you_mean(name, roles.models))
        refs += [Ref(model, view or None) for model in (stands_for[:1] or (name,))]
    if not refs and not isinstance(node.value, list):
        context.error(node, f"is {node.show()}, but must name a model")
    return tuple(refs) if isinstance(node.value, list) else refs[0] if refs else Ref("")


def _needed(context: Context, node: Node, component: Component, read: Mapping[str, str]) -> set[str]:
    """The roles whose signals the loss reads, after rebinding."""
    needs: Iterable[str] = context.literal(node, component, "needs", _DEFAULT_NEEDS)
    return {read.get(need, need).partition(".")[0] for need in needs} | {"student"}


def _models(bound: Ref | tuple[Ref, ...]) -> list[str]:
    return [ref.model for ref in (bound if isinstance(bound, tuple) else (bound,))]


def _is_left_out(roles: Roles, needed: set[str], bound: Mapping[str, Ref | tuple[Ref, ...]]) -> bool:
    """In a stage without teachers: a role other than the student is needed, or bound to a model that is not there."""
    if roles.teachers:
        return False
    absent = any(model not in roles.train for refs in bound.values() for model in _models(refs))
    return absent or any(role not in bound for role in needed - {"student"})


def _check_roles(
    context: Context,
    name: str,
    node: Node,
    roles: Roles,
    needed: set[str],
    bound: Mapping[str, Ref | tuple[Ref, ...]],
) -> None:
    for role, refs in bound.items():
        for model in _models(refs):
            if role == "student" and model not in roles.train:
                hint = f"it trains {', '.join(roles.train)}"
                context.error(
                    node.items[role],
                    f"`{model}` is the student here, but stage `{roles.stage}` does not train it",
                    hint,
                )
            elif model not in (*roles.train, *roles.teachers):
                message = f"`{model}` takes no part in stage `{roles.stage}`"
                context.error(node.items[role], message, f"add it: stages.{roles.stage}.teachers: [{model}]")
    if "student" not in bound and len(roles.train) > 1:
        message = (
            f"stage `{roles.stage}` trains {' and '.join(roles.train)}, and this loss does not say which is its student"
        )
        context.error(node, message, f"add `student: {roles.train[0]}` to {node.mark.path or name}")
    for role in sorted(needed - {"student", "teacher"} - set(bound)):
        context.error(node, f"the role `{role}` is bound to no model", f"add `{role}: MODEL`")
