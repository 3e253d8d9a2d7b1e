"""What is wrong with a recipe for drafts beyond its signatures, as far as files on disk tell. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.errors import Problem, did_you_mean

if TYPE_CHECKING:
    from kdcore.recipe.schema import ModelSlot, Recipe, Slot, Stage

PRETRAINED = ("specdec.pretrained", "specdec.hub")
LENGTHS = {"specdec.text": 512, "specdec.jsonl": 512, "specdec.stdlib": 256}
"""Our data, and the defaults of their ``length``."""
VOCABULARY_FILES = ("tokenizer.json", "vocab.json")


def check_recipe(recipe: Recipe) -> list[Problem]:
    """All problems of a recipe that names this plugin, each once."""
    found: dict[tuple[str, str], Problem] = {}
    for stage in recipe.stages.values():
        for problem in (*_models(recipe, stage), *_sampling(recipe, stage), *_regenerating(recipe, stage)):
            found.setdefault((problem.path, problem.message), problem)
    return list(found.values())


def _models(recipe: Recipe, stage: Stage) -> Iterator[Problem]:
    if stage.data.use not in LENGTHS:
        return
    yield from _there(stage.data, "tokenizer")
    for name in dict.fromkeys((*stage.train, *stage.teachers)):
        slot = recipe.models[name]
        yield from _there(slot, "pretrained" if slot.use == "specdec.pretrained" else "config")
        config = _config(slot)
        yield from _same_tokens(slot, stage.data)
        yield from _long_enough(slot, config, stage.data)
        if name in stage.train:
            yield from _target_there(recipe, slot, stage)
    yield from _deep_enough(recipe, stage)


def _there(slot: ModelSlot | Slot, key: str) -> Iterator[Problem]:
    path = slot.args.get(key)
    if slot.use.startswith("specdec.") and isinstance(path, Path) and not path.exists():
        hint = "give a folder that `save_pretrained` has written, or a .gguf file"
        yield Problem(f"there is no {path}", hint, f"{slot.path}.{key}")


def _same_tokens(slot: ModelSlot, data: Slot) -> Iterator[Problem]:
    """Where files tell; what they do not tell is compared before the weights are read."""
    if slot.use not in PRETRAINED:
        return
    own, given = slot.args.get("pretrained"), data.args.get("tokenizer")
    if given is None and data.args.get("hub") is None:
        key = "tokenizer" if slot.use == "specdec.pretrained" else "hub"
        yield Problem(
            f"`{slot.path.rpartition('.')[2]}` has a tokenizer of its own, and the data reads bytes",
            f"set `data.{key}: {own}`",
            data.path,
        )
    elif isinstance(own, Path) and isinstance(given, Path) and own != given:
        ours, theirs = _vocabulary(own), _vocabulary(given)
        if ours is not None and theirs is not None and ours != theirs:
            yield Problem(
                f"its tokenizer has {_difference(ours, theirs)} that of {given}, which the data is read with: a draft "
                "and its target must read the same tokens",
                "give both the same tokenizer, or choose another model",
                f"{slot.path}.pretrained",
            )


def _vocabulary(folder: Path) -> Mapping[str, int] | None:
    """Token to id, where a file in the folder says so."""
    for name in VOCABULARY_FILES:
        found = _json(folder / name)
        tokens = found.get("model", {}).get("vocab") if name == "tokenizer.json" else found
        if isinstance(tokens, dict) and tokens:
            return tokens
    return None


def _difference(ours: Mapping[str, int], theirs: Mapping[str, int]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours)} tokens, not the {len(theirs)} of"
    changed = sum(theirs.get(token) != number for token, number in ours.items())
    return f"other ids for {changed} of its {len(ours)} tokens than"


def _long_enough(slot: ModelSlot, config: Mapping[str, Any], data: Slot) -> Iterator[Problem]:
    length, context = data.args.get("length", LENGTHS[data.use]), config.get("max_position_embeddings")
    if isinstance(context, int) and length > context:
        yield Problem(
            f"the data's rows have {length} tokens, and this model sees {context} at most",
            f"set `data.length: {context}` or less",
            slot.path,
        )


def _deep_enough(recipe: Recipe, stage: Stage) -> Iterator[Problem]:
    """One teacher must have each layer; the others may be shallower, as a reference of the draft's size is."""
    depths = {name: _config(recipe.models[name]).get("num_hidden_layers") for name in stage.teachers}
    known = {name: depth for name, depth in depths.items() if isinstance(depth, int)}
    if not known or len(known) < len(depths):
        return
    deepest = max(known, key=known.__getitem__)
    depth = known[deepest]
    for layer in stage.task.args.get("layers") or ():
        if not -depth <= layer <= depth:
            yield Problem(
                f"layer {layer} is wanted of `{deepest}`, which has {depth}",
                f"give 0 to {depth - 1} ({depth} is the final hidden state), or count from the end with -1, -2, ...",
                f"{stage.task.path}.layers",
            )


def _target_there(recipe: Recipe, slot: ModelSlot, stage: Stage) -> Iterator[Problem]:
    """A draft that reads its target's hidden states names it."""
    target = slot.args.get("target")
    if not (slot.use.startswith("specdec.") and isinstance(target, str)) or target in stage.teachers:
        return
    if target not in recipe.models:
        yield Problem(f"there is no model `{target}`", did_you_mean(target, recipe.models), f"{slot.path}.target")
    else:
        yield Problem(
            f"`{slot.path.rpartition('.')[2]}` reads the hidden states of `{target}`, which does not teach here",
            f"add `{target}` to the stage's `teachers`",
            f"{stage.path}.teachers",
        )


def _sampling(recipe: Recipe, stage: Stage) -> Iterator[Problem]:
    task = stage.task
    if task.use != "specdec.on_policy":
        return
    here = (*stage.train, *stage.teachers)
    for role in ("draft", "target"):
        name = task.args.get(role)
        if isinstance(name, str) and name not in here:
            yield Problem(
                f"`{name}` is to continue the rows of stage `{stage.name}`, and neither learns nor teaches there",
                did_you_mean(name, here),
                f"{task.path}.{role}",
            )
    if stage.data.args.get("packed", True):
        yield Problem(
            f"stage `{stage.name}` continues rows, and its data packs several documents into one",
            "set `data.packed: false`",
            f"{stage.data.path}.packed",
        )


def _regenerating(recipe: Recipe, stage: Stage) -> Iterator[Problem]:
    if stage.do is None or stage.do.use != "specdec.regenerate":
        return
    name = stage.do.args.get("model")
    if isinstance(name, str) and name not in recipe.models:
        yield Problem(f"there is no model `{name}`", did_you_mean(name, recipe.models), f"{stage.do.path}.model")
    if stage.data.args.get("packed", True):
        yield Problem(
            f"stage `{stage.name}` continues rows, and its data packs several documents into one",
            "set `data.packed: false` in the stages that share the table",
            f"{stage.data.path}.packed",
        )


def _config(slot: ModelSlot) -> Mapping[str, Any]:
    """What is known of a model without loading it."""
    if slot.use == "specdec.llama":
        found = {"num_hidden_layers": "layers", "max_position_embeddings": "context"}
        defaults = {"layers": 2, "context": 2048}
        return {name: slot.args.get(ours, defaults[ours]) for name, ours in found.items()}
    folder = slot.args.get("pretrained" if slot.use == "specdec.pretrained" else "config")
    if slot.use not in ("specdec.pretrained", "specdec.from_config") or not isinstance(folder, Path):
        return {}
    return {**_json(folder / "config.json"), **(slot.args.get("options") or {})}


def _json(file: Path) -> dict[str, Any]:
    """The object in a file, empty where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
