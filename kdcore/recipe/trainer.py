"""The ``trainer:`` section and the optimizer: keywords for Lightning and torch, checked without importing either."""

from __future__ import annotations

from typing import Any

from kdcore.recipe.context import Context
from kdcore.recipe.nodes import Node
from kdcore.recipe.schema import Optimizer
from kdcore.registry import Component, Parameter

CORE = ("groups", "schedule")
"""Keys of the optimizer's slot that the core owns."""

DEFAULT_OPTIMIZER = Node({"use": Node("adamw")})

_TRAINER = Component("callback", "Trainer", "lightning.pytorch.trainer.trainer:Trainer", "lightning")
ELSEWHERE = {
    "callbacks": "write them under `callbacks:` of the recipe or stage",
    "logger": "write it under `logger:` at the top of the recipe",
    "plugins": "kdcore chooses them; `precision:` and `strategy:` are free",
    "default_root_dir": "choose the folder with --runs DIR",
    "enable_checkpointing": "a run goes on from its checkpoints; `keep: last` ends a stage with its last weights",
}
"""Parameters of the trainer that a recipe does not set, and what to do instead."""

SHARDING = ("fsdp", "deepspeed")
"""Beginnings of the names of strategies that cut a net into pieces."""


def read_trainer(context: Context, node: Node | None) -> dict[str, Any]:
    """Parameters of ``lightning.Trainer``, read from its source."""
    items = context.mapping(node)
    if node is None or not items:
        return {}
    nothing: dict[str, Parameter] = {}
    parameters = context.read_source(node, _TRAINER.parameters, nothing)
    for key in items.keys() & ELSEWHERE.keys():
        context.error(items[key], "is not set here", ELSEWHERE[key])
    if {"precision", "gradient_clip_val"} <= items.keys() and items["precision"].value in ("16-mixed", 16, "16"):
        hint = "use `precision: bf16-mixed`, or take `gradient_clip_val` out"
        context.error(items["gradient_clip_val"], "Lightning clips no gradients that 16-mixed has scaled", hint)
    if "strategy" in items and str(items["strategy"].value).startswith(SHARDING):
        hint = (
            "use `strategy: ddp`; a frozen teacher has no gradients and no optimizer state, so it needs a third or less"
        )
        context.error(
            items["strategy"],
            f"{items['strategy'].show()} cuts nets into pieces, and a stage ends with whole ones",
            hint,
        )
    allowed = {name: parameter for name, parameter in parameters.items() if name not in ELSEWHERE}
    if parameters:
        context.known_keys(node, [*allowed, *ELSEWHERE], "lightning.Trainer")
    return {key: context.convert(items[key], allowed[key].annotation) for key in items if key in allowed}


def read_optimizer(context: Context, node: Node, path: str) -> Optimizer:
    """An optimizer with its schedule and its parameter groups; the default where it has errors."""
    component = context.component("optimizer", node)
    if component is None:
        return Optimizer(path, "adamw")
    slot = context.arguments("optimizer", component, node, path, CORE)
    schedule = node.items.get("schedule")
    scheduled = None
    if schedule is not None and schedule.value is not None:
        scheduled = context.slot("schedule", schedule, f"{path}.schedule")
    groups = _groups(context, node, component)
    return Optimizer(path, component.name, {} if slot is None else slot.args, groups, scheduled)


def _groups(context: Context, node: Node, component: Component) -> dict[str, dict[str, Any]]:
    """``{pattern: {lr: 0.1}}``: each group may set what the optimizer itself may."""
    nothing: dict[str, Parameter] = {}
    parameters = context.read_source(node, component.parameters, nothing)
    groups = {}
    for pattern, group in context.mapping(node.items.get("groups")).items():
        settings = context.mapping(group)
        context.known_keys(group, parameters, f"a group of optimizer `{component.name}`")
        groups[pattern] = {
            key: context.convert(child, parameters[key].annotation)
            for key, child in settings.items()
            if key in parameters
        }
    return groups
