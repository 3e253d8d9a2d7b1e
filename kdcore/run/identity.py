"""What makes two stages the same: if nothing that matters changed, a finished one is not run again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from kdcore.plugins import Plugins
from kdcore.recipe.content import content, digest
from kdcore.recipe.schema import Recipe, Stage
from kdcore.run.folder import versions

CORE = ("kdcore", "torch", "lightning", "torchmetrics", "omegaconf", "pluggy")


def installed_versions(plugins: Plugins) -> dict[str, str]:
    """Versions of what a run's outcome depends on: the core's libraries and every plugin that was loaded."""
    loaded = {component.plugin for component in plugins.registry}
    used = [info.distribution for info in plugins.discover() if info.name in loaded]
    return versions([*CORE, *used])


def stage_identities(
    recipe: Recipe, seed: int, versions: Mapping[str, str], plugin_files: Iterable[Path]
) -> dict[str, str]:
    """Each stage's identity: its slots, its models, the seed, versions, plugin files and the stages it builds on."""
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in plugin_files]
    trained_by: dict[str, str] = {}
    identities = {}
    for stage in recipe.stages.values():
        models = sorted(involved(recipe, stage))
        identities[stage.name] = digest(
            {
                "stage": content(stage),
                "models": {name: content(recipe.models[name]) for name in models},
                "builds_on": {name: trained_by[name] for name in models if name in trained_by},
                "seed": recipe.seed if stage.once else seed,
                "versions": dict(versions),
                "plugin_files": files,
            }
        )
        trained_by.update(dict.fromkeys(stage.train, identities[stage.name]))
    return identities


def involved(recipe: Recipe, stage: Stage) -> set[str]:
    """Every model a stage reads or trains, members of composites included."""
    bound = [ref for slot in stage.losses.values() for ref in slot.roles.values()]
    roles = {one.model for ref in bound for one in (ref if isinstance(ref, tuple) else (ref,))}
    found: set[str] = set()
    waiting = [*stage.train, *stage.teachers, *roles, *(init.source for init in stage.init.values())]
    if stage.do is not None:
        waiting += recipe.models
    while waiting:
        name = waiting.pop()
        if name in found or name not in recipe.models:
            continue
        found.add(name)
        of = recipe.models[name].args.get("of", ())
        waiting += [of] if isinstance(of, str) else of
    return found
