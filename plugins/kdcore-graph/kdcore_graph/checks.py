"""What is wrong with a recipe about graphs beyond its signatures: above all, labels that leak. Imports no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kdcore.errors import Problem

if TYPE_CHECKING:
    from kdcore.recipe.schema import DataSlot, Recipe, Slot, Stage

_FREE = frozenset({"nodes", "batch_size", "steps", "fanout", "class_weights", "noise", "isolated", "near", "far"})
"""What stages may set differently: how batches are made, not which labels and edges are known."""

_SOURCES = frozenset({"npz", "planetoid", "tables", "digits", "pyg", "ogb"})
_DATA = frozenset({"graph.nodes", "graph.links"})


def check_recipe(recipe: Recipe) -> list[Problem]:
    """All problems of a recipe that names this plugin."""
    stages = list(recipe.stages.values())
    problems = [problem for stage in stages for problem in _misused(stage.data)]
    graphs = [stage for stage in stages if stage.data.use in _DATA]
    for before, after in pairwise(graphs):
        problems += _differences(before, after)
    for data in {stage.data.path: stage.data for stage in graphs}.values():
        problems += _treated(data)
    return problems + [problem for stage in graphs for problem in (*_shared(stage), *_cached(stage))]


def _misused(data: Slot) -> list[Problem]:
    name = data.use.removeprefix("graph.")
    if data.use.startswith("graph.") and name in _SOURCES:
        return [
            Problem(
                f"`{data.use}` is a source and makes no batches",
                f"write `{{use: graph.nodes, source: {{use: {data.use}, ...}}}}`",
                data.path,
            )
        ]
    return []


def _differences(before: Stage, after: Stage) -> list[Problem]:
    """Stages that draw the split differently train on what another one is tested on."""
    ours, theirs = _fixed(before.data), _fixed(after.data)
    return [
        Problem(
            f"stage `{after.name}` has {name} = {_said(theirs, name)}, stage `{before.name}` has {_said(ours, name)}: "
            "what one of them is tested on, the other has learnt from",
            "set it once, in the recipe's `data`",
            f"{after.path}.data.{name}",
        )
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _fixed(data: Slot) -> dict[str, Any]:
    found = {name: value for name, value in data.args.items() if name not in _FREE}
    source = found.get("source")
    if source is not None and hasattr(source, "args"):
        found["source"] = (source.use, sorted(source.args.items(), key=str))
    return {"use": data.use, **found}


def _said(arguments: dict[str, Any], name: str) -> str:
    return repr(arguments[name]) if name in arguments else "its default"


def _treated(data: DataSlot) -> list[Problem]:
    """What the core does to samples, where there are none."""
    problems = [
        Problem(
            f"a transform changes single samples, and `{data.use}` gives batches of a graph",
            "leave it out; what changes a batch is a `prepare` component, as `graph.adversarial`",
            f"{data.path}.{key}",
        )
        for key, said in (("transform", data.transform), ("views", data.views))
        if said
    ]
    small = data.use == "graph.nodes" and data.args.get("batch_size") is not None and not data.args.get("fanout")
    if data.table is not None and not small:
        problems.append(
            Problem(
                "a table chooses among samples, and only small batches of nodes without `fanout` are made of such",
                "leave it out, or use `graph.nodes` with a `batch_size`",
                f"{data.path}.table",
            )
        )
    if data.samples != "all":
        problems.append(
            Problem(
                "a graph's nodes are no samples of their own: the others are their neighbours",
                "for a net that sees no neighbours: `nodes: labelled`",
                f"{data.path}.samples",
            )
        )
    return problems


def _shared(stage: Stage) -> list[Problem]:
    """With ``--seeds N`` a stage that is run once has seen the test labels of every split but its own."""
    drawn = (
        stage.data.args.get("split", "random") == "random"
        or stage.data.args.get("setting", "transductive") != "transductive"
    )
    if stage.once and drawn and stage.data.args.get("split_seed") is None:
        return [
            Problem(
                f"stage `{stage.name}` is run once for all seeds, and each seed draws a split of its own: with "
                "`--seeds` its model would have learnt from the labels that the others are tested on",
                "set `data.split_seed` so that all seeds share one split, or remove `once`",
                f"{stage.path}.once",
            )
        ]
    return []


def _cached(stage: Stage) -> list[Problem]:
    if stage.cache is None:
        return []
    return [
        Problem(
            f"stage `{stage.name}` has a cache, and what a frozen teacher says about a graph is computed once anyway",
            "remove `cache`",
            f"{stage.path}.cache",
        )
    ]
