"""A document to a checked recipe: everything that is wrong with it, at once."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from kdcore.errors import PluginError, Problem, RecipeError
from kdcore.hookspecs import Kind
from kdcore.recipe.context import Context
from kdcore.recipe.context import Finder as Finder
from kdcore.recipe.data import read_data
from kdcore.recipe.interpolation import environment_values
from kdcore.recipe.load import Document, in_order, load
from kdcore.recipe.models import read_models
from kdcore.recipe.nodes import Node
from kdcore.recipe.schema import SCHEMA, Recipe, Slot
from kdcore.recipe.stages import read_stages, stage_nodes

KEYS = (
    "kdcore", "requires", "name", "seed", "task", "data", "models", "stages", "losses", "taps", "metrics",
    "optimizer", "callbacks", "trainer", "logger", "prepare", "cache",
)  # fmt: skip

_FOLDER = re.compile(r"[^\W_][\w.-]{0,99}")
_CODE_KEYS = ("_target_", "class_path")
_MAX_SEED = 2**32 - 1


def read(sources: Sequence[Path], overrides: Sequence[str], finder: Finder, *, alone: bool = True) -> Recipe:
    """Load and check a recipe. Warnings are in its ``warnings``.

    Args:
        sources: recipe files, later ones laid over earlier ones.
        overrides: ``a.b=c`` or ``~a.b``.
        finder: knows the components.
        alone: ``False`` skips the stage that trains the student alone.

    Raises:
        RecipeError: with every error that was found.
    """
    recipe, problems = check(load(sources, overrides), finder, alone=alone)
    if recipe is None:
        raise RecipeError([problem for problem in problems if problem.level == "error"])
    return recipe


def check(document: Document, finder: Finder, *, alone: bool = True) -> tuple[Recipe | None, list[Problem]]:
    """The recipe, or ``None`` when anything is wrong; and all problems and warnings, by file and line."""
    context = Context(finder, secrets=environment_values(mark.text for mark in document.marks.values()))
    root = _without_code(context, document.tree())
    context.facts = _facts(finder, root)
    context.known_keys(root, KEYS, "a recipe")
    _check_schema(context, root)
    _required(context, root)
    name, seed = _name(context, root, document.files), _seed(context, root)
    for key in ("task", "data", "models"):
        if key not in root.items:
            context.error(root, f"there is no `{key}:`", _MISSING[key])
    stages = stage_nodes(context, root, alone)
    models = read_models(context, _model_nodes(context, root, stages))
    task = None if "task" not in root.items else context.slot("task", root.items["task"], "task")
    data = None if "data" not in root.items else read_data(context, root.items["data"], "data")
    read = read_stages(context, root, stages, models)
    logger = _logger(context, root)
    warnings = in_order([*document.warnings, *context.warnings], document.files)
    problems = in_order([*context.problems, *warnings], document.files)
    if context.problems or task is None or data is None:
        return None, problems
    recipe = Recipe(
        name,
        seed,
        task,
        data,
        dict(models.slots),
        read,
        logger,
        source=_rewritten(document.source, context.converter.rewritten),
        files=tuple(str(Path(file).absolute()) for file in document.files),
        overrides=document.overrides,
        warnings=tuple(warnings),
    )
    return recipe, problems


_MISSING = {
    "task": "add `task: {use: classify}`",
    "data": "add `data: {use: digits}`",
    "models": "add `models:` with a `student` and a `teacher`",
}


def _without_code(context: Context, node: Node) -> Node:
    """The tree without keys that other tools use to let a recipe name code; each is an error."""
    if isinstance(node.value, list):
        return Node([_without_code(context, child) for child in node.value], node.mark)
    if not isinstance(node.value, dict):
        return node
    for key in _CODE_KEYS:
        if key in node.value:
            hint = "name a component that the core or a plugin has registered: use: NAME"
            context.error(node.value[key], f"`{key}`: a recipe never names code", hint)
    return Node(
        {key: _without_code(context, child) for key, child in node.value.items() if key not in _CODE_KEYS}, node.mark
    )


def _facts(finder: Finder, root: Node) -> frozenset[str]:
    """Names that any task or data of the recipe fills in; what is wrong with those is found later."""
    names = {"class_axis"}  # which the task fills in for metrics
    stages = root.items.get("stages", Node({})).items.values()
    kinds: tuple[Kind, ...] = ("task", "data")
    for kind in kinds:
        for node in (root, *stages):
            use = node.items.get(kind, node).items.get("use")
            found = finder.find(kind, use.value) if use is not None and isinstance(use.value, str) else None
            if found is not None and not isinstance(found, Problem):
                try:
                    names |= set(found.literal("fact_names", ()))
                except PluginError:
                    continue
    return frozenset(names)


def _check_schema(context: Context, root: Node) -> None:
    node = root.items.get("kdcore")
    if node is None:
        context.error(root, "does not say which schema it follows", f"start it with `kdcore: {SCHEMA}`")
    elif node.value != SCHEMA or isinstance(node.value, bool):
        hint = (
            "install a newer kdcore"
            if isinstance(node.value, int) and node.value > SCHEMA
            else f"write `kdcore: {SCHEMA}`"
        )
        context.error(node, f"is {node.show()}, but this kdcore reads schema {SCHEMA}", hint)


def _required(context: Context, root: Node) -> None:
    for node in context.word_nodes(root.items.get("requires")):
        try:
            Requirement(str(node.value))
        except InvalidRequirement:
            context.error(node, f"{node.show()} is no requirement", "write it as for pip: kdcore-detection>=0.1")
        else:
            problem = context.finder.unmet(str(node.value))
            if problem is not None:
                context.error(node, problem.message, problem.hint, plugin=problem.plugin)


def _name(context: Context, root: Node, files: Sequence[str]) -> str:
    """The recipe's name, which is also the folder of its runs; by default that of its first file."""
    node = root.items.get("name")
    name: str = context.convert(node, "str", "") if node is not None else Path(files[0] if files else "").stem
    if not _FOLDER.fullmatch(name) and (node is None or node.value is not None):
        shown = f"`{name}`" if node is None else node.show()
        hint = "use letters, digits, `.`, `_` and `-`, and start with a letter or digit"
        context.error(node if node is not None else root, f"{shown} cannot name a folder", hint)
    return name


def _seed(context: Context, root: Node) -> int:
    node = root.items.get("seed")
    seed: int = context.convert(node, "int", 0)
    if node is not None and not 0 <= seed <= _MAX_SEED:
        context.error(node, f"is {node.show()}, but a seed is between 0 and {_MAX_SEED}")
    return seed


def _model_nodes(context: Context, root: Node, stages: Mapping[str, Node]) -> dict[str, Node]:
    """The models as written; the default stages add `alone`, the same net as the student."""
    nodes = context.modules(root.items.get("models"))
    by_default = root.items.get("stages", Node(None)).value is None
    if by_default and "alone" in stages and "student" in nodes:
        nodes.setdefault("alone", nodes["student"])
    return nodes


def _logger(context: Context, root: Node) -> Slot | None:
    node = root.items.get("logger")
    if node is None:
        return Slot("logger", "wandb", {"mode": "offline"})
    return None if node.value is None else context.slot("logger", node, "logger")


def _rewritten(source: dict[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """The source with text that YAML took for something else, and with absolute paths: it reads the same anywhere."""
    result = copy.deepcopy(source)
    for path, text in texts.items():
        *parents, last = path.split(".")
        place: Any = result
        for key in parents:
            place = _child(place, key)
        if isinstance(place, dict) and last in place:
            place[last] = text
        elif isinstance(place, list) and last.isdigit() and int(last) < len(place):
            place[int(last)] = text
    return result


def _child(place: Any, key: str) -> Any:
    if isinstance(place, dict):
        return place.get(key)
    return place[int(key)] if isinstance(place, list) and key.isdigit() and int(key) < len(place) else None
