"""What kdcore-specdec adds to kdcore. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdcore.errors import Problem
from kdcore.hookspecs import hookimpl

if TYPE_CHECKING:
    from kdcore.hookspecs import Add
    from kdcore.recipe.schema import Recipe

KDCORE_API = 1


@hookimpl
def kdcore_register(add: Add) -> None:
    add("task", "causal_lm", "kdcore_specdec.tasks.causal:CausalLanguageModel")
    add("task", "on_policy", "kdcore_specdec.tasks.on_policy:OnPolicy")

    add("data", "stdlib", "kdcore_specdec.data.stdlib:Stdlib")
    add("data", "text", "kdcore_specdec.data.text:Text")
    add("data", "jsonl", "kdcore_specdec.data.jsonl:Jsonl")
    add("action", "regenerate", "kdcore_specdec.data.regenerate:Regenerate")

    add("model", "llama", "kdcore_specdec.models.draft:llama")
    add("model", "from_config", "kdcore_specdec.models.draft:from_config")
    add("model", "pretrained", "kdcore_specdec.models.pretrained:pretrained")
    add("model", "hub", "kdcore_specdec.models.pretrained:hub")

    add("loss", "cross_entropy", "kdcore_specdec.losses.cross_entropy:CrossEntropy")
    add("loss", "divergence", "kdcore_specdec.losses.divergence:Divergence")
    add("loss", "adaspec", "kdcore_specdec.losses.adaspec:AdaSPEC")

    add("model", "eagle3", "kdcore_specdec.models.eagle:Eagle3")
    add("model", "fspad", "kdcore_specdec.models.fspad:FSPAD")
    add("model", "falcon", "kdcore_specdec.models.falcon:Falcon")
    add("model", "medusa", "kdcore_specdec.models.medusa:Medusa")

    add("loss", "eagle3", "kdcore_specdec.losses.eagle:Eagle3")
    add("loss", "fspad", "kdcore_specdec.losses.fspad:FSPAD")
    add("loss", "falcon", "kdcore_specdec.losses.falcon:Falcon")
    add("loss", "medusa", "kdcore_specdec.losses.medusa:Medusa")

    add("exporter", "speculators", "kdcore_specdec.speculators:speculators")

    add("metric", "expected_acceptance", "kdcore_specdec.metrics.acceptance:ExpectedAcceptance")

    add("command", "draft_bench", "kdcore_specdec.commands.draft_bench:draft_bench")
    add("exporter", "transformers", "kdcore_specdec.exporters:transformers")


@hookimpl
def kdcore_check_recipe(recipe: Recipe) -> list[Problem]:
    from kdcore_specdec.checks import check_recipe

    return check_recipe(recipe)


@hookimpl
def kdcore_check_environment() -> list[Problem]:
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        return [Problem("transformers is not installed, which every model here needs", "pip install transformers")]
    return []
