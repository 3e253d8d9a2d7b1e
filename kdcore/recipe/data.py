"""The data of a recipe: a component with the keys that the core owns for all data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from kdcore.errors import did_you_mean
from kdcore.recipe.context import Context
from kdcore.recipe.nodes import Node
from kdcore.recipe.schema import DataSlot, Slot, Stage

CORE = tuple(field.name for field in fields(DataSlot) if field.name not in {field.name for field in fields(Slot)})
"""Keys of the data's slot that the core owns."""


def read_data(context: Context, node: Node, path: str) -> DataSlot | None:
    """The data's slot with its transforms, views and table; ``None`` where the component itself has errors."""
    slot = context.slot("data", node, path, CORE)
    items = node.items
    variants: int = context.convert(items.get("variants"), "int", 0)
    if variants < 0:
        context.error(items["variants"], f"is {items['variants'].show()}, but must be 0 (no limit) or more")
    chain = _chain(context, items.get("transform"))
    views = {name: _chain(context, child) for name, child in context.named(items.get("views")).items()}
    table: str | None = context.convert(items.get("table"), "str | None")
    samples = context.convert(items.get("samples"), "Literal['all', 'labelled']", "all")
    if slot is None:
        return None
    return DataSlot(slot.path, slot.use, slot.args, chain, views, variants, table, samples)


def _chain(context: Context, node: Node | None) -> dict[str, Slot]:
    slots = {name: context.slot("transform", child) for name, child in context.named(node).items()}
    return {name: slot for name, slot in slots.items() if slot is not None}


def check_table(context: Context, node: Node, table: str, stage: str, before: Mapping[str, Stage]) -> None:
    """A table is that of an earlier stage with ``do``."""
    writers = [name for name, one in before.items() if one.do is not None]
    if table not in writers:
        hint = did_you_mean(table, writers) if writers else "a stage with `do: {use: ACTION}` writes one"
        context.error(node, f"no stage `{table}` before `{stage}` writes a table", hint)
