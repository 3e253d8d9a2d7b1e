"""What a stage does before its first step: initial weights, frozen parts, and the teacher cache it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from kdcore.errors import did_you_mean
from kdcore.recipe.context import Context
from kdcore.recipe.losses import Roles
from kdcore.recipe.models import COMPOSITES, FOLLOWERS, Models
from kdcore.recipe.nodes import Node
from kdcore.recipe.schema import Cache, Init

INIT_KEYS = ("from", "map")
"""Keys of one entry of ``init``, where it is a mapping."""

CACHE_KEYS = tuple(field.name for field in fields(Cache))

_CACHE_DTYPES = 'Literal["float32", "float16", "bfloat16"]'


def read_init(context: Context, node: Node | None, stage: str, here: Sequence[str], models: Models) -> dict[str, Init]:
    """``{student: teacher}`` or ``{student: {from: teacher, map: {layers.1: layers.4}}}``.

    Args:
        here: the models of the stage; only these can be initialised.
    """
    found = {}
    for name, child in context.mapping(node).items():
        if name not in here:
            context.error(child, f"`{name}` is no model of stage `{stage}`", did_you_mean(name, here))
        init = _init(context, name, child, models)
        if init is not None:
            found[name] = init
    return found


def _init(context: Context, name: str, node: Node, models: Models) -> Init | None:
    mapping: dict[str, str] = {}
    source: Node | None = node
    if isinstance(node.value, dict):
        context.known_keys(node, INIT_KEYS, "init")
        mapping = context.convert(node.items.get("map"), "dict[str, str]", {})
        source = node.items.get("from")
    if source is None:
        context.error(node, "does not say where the weights come from", "add `from: MODEL`")
        return None
    model: str | None = context.convert(source, "str")
    if model is None:
        return None
    if model not in models.nodes:
        context.error(source, f"there is no model {source.show()}", did_you_mean(model, models.nodes))
    elif models.use(model) in COMPOSITES:
        context.error(source, f"{source.show()} is composed of other models and has no weights of its own")
    elif model == name:
        context.error(source, f"`{name}` would start from itself")
    else:
        return Init(model, mapping)
    return None


def read_freeze(context: Context, node: Node | None, stage: str, train: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """``{student: [encoder.**]}``: patterns of what stays as it is, for models that are trained."""
    found = {}
    for name, child in context.mapping(node).items():
        if name not in train:
            context.error(child, f"stage `{stage}` does not train `{name}`", did_you_mean(name, train))
        found[name] = context.words(child)
    return found


def read_cache(context: Context, own: Node | None, shared: Node | None, roles: Roles, models: Models) -> Cache | None:
    """The stage's own cache, or the recipe's where its teacher teaches here; ``null`` turns it off."""
    node = own if own is not None else shared
    if node is None or node.value is None:
        return None
    cache = _cache(context, node)
    if cache is None:
        return None
    of = node.items["of"]
    if cache.of not in models.nodes:
        context.error(of, f"there is no model {of.show()}", did_you_mean(cache.of, models.nodes))
    elif cache.of in roles.teachers and (models.use(cache.of) in FOLLOWERS or cache.of in roles.train):
        context.error(of, f"{of.show()} changes while stage `{roles.stage}` runs, so it cannot be cached")
    elif cache.of in roles.teachers:
        return cache
    elif own is not None:
        hint = did_you_mean(cache.of, roles.teachers)
        context.error(of, f"{of.show()} is no teacher of stage `{roles.stage}`", hint)
    return None


def _cache(context: Context, node: Node) -> Cache | None:
    items = context.mapping(node)
    if not isinstance(node.value, dict):
        return None
    context.known_keys(node, CACHE_KEYS, "a cache")
    if "of" not in items:
        context.error(node, "does not say which teacher", "add `of: MODEL`")
        return None
    of: str | None = context.convert(items["of"], "str")
    topk: int | None = context.convert(items.get("topk"), "int | None")
    if topk is not None and topk < 1:
        context.error(items["topk"], f"is {items['topk'].show()}, but must be 1 or more")
    keep = context.words(items.get("keep")) or ("logits",)
    dtype = context.convert(items.get("dtype"), _CACHE_DTYPES, "float16")
    return None if of is None else Cache(of, keep, topk, dtype)
