"""``python -m kdcore draft-bench``: does the draft make its target faster, and does it change what the target says?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.atomic import replacing
from kdcore.errors import Problem, RecipeError, did_you_mean

if TYPE_CHECKING:
    from kdcore.hookspecs import Facade
    from kdcore.run.restore import Restored

FILE = "draft-bench.json"


def draft_bench(
    kdcore: Facade,
    *,
    target: str | None = None,
    draft: list[str] | None = None,
    k: list[int] | None = None,
    tokens: int = 128,
    prompt: int = 32,
    prompts: int = 8,
    rounds: int = 5,
    temperature: list[float] | None = None,
    draws: int = 300,
    seed: int = 0,
    to: Path | None = None,
    endpoint: str | None = None,
    baseline: str | None = None,
    served: str | None = None,
    key: str | None = None,
    timeout: float = 120.0,
) -> int:
    """Decode with drafts and without: tokens per second, acceptance, and whether the output stays the same.

    Args:
        target: which model is decoded; the first teacher of the last stage by default
        draft: models of the recipe that draft, such as "[alone, draft]"; what the last stage trained by default
        k: tokens in a proposal, such as "[2, 4, 8]"; 4 by default
        tokens: new tokens for each prompt, at most
        prompt: tokens of a prompt, at least; more where the first label comes later
        prompts: how many, from the test split, or the validation split where there is no test
        rounds: over all prompts
        temperature: 0 decodes greedily, others sample; [0, 1] by default
        draws: for the test that sampling keeps the target's distribution
        seed: of sampling
        to: file for the result as JSON; draft-bench.json in the run's folder by default
        endpoint: measure this OpenAI-compatible server instead, such as http://localhost:8000/v1
        baseline: a second server, of the same target without a draft, to compare the first with
        served: the servers' name of the model; the only one that they serve by default
        key: sent to the servers as a bearer token
        timeout: seconds to wait for each part of a server's answer

    Raises:
        RecipeError: a model or a number that cannot be used.
        RunError: the recipe has not been run, there are no prompts, or a server does not answer.
    """
    counts = {"tokens": [tokens], "prompt": [prompt], "prompts": [prompts], "rounds": [rounds], "draws": [draws]}
    temperatures = [0.0, 1.0] if temperature is None else temperature
    _check({"k": k or [4], **counts}, temperatures, endpoint, baseline)
    restored = kdcore.restored()
    from kdcore_specdec.commands.measured import Wanted, measure_models, measure_servers
    from kdcore_specdec.decoding.endpoint import connect

    wanted = Wanted(k or [4], temperatures, tokens, prompt, prompts, rounds, draws, seed)
    try:
        if endpoint is None:
            names = _names(restored, target, draft)
            found = measure_models(restored, names[0], names[1:], wanted, kdcore.say)
        else:
            urls = [url for url in (endpoint, baseline) if url is not None]
            servers = [connect(url, served, key, timeout) for url in urls]
            found = measure_servers(restored.data, servers, wanted, kdcore.say)
    except ValueError as error:  # a vocabulary, a context or an address that does not fit
        raise RecipeError(str(error)) from error
    place = to or restored.folder / FILE
    _write(place, found)
    kdcore.say(f"written to {place}")
    changed = any(one["unchanged"] is False for result in found["results"] for one in result.get("drafts", ()))
    return 1 if changed else 0


def _names(restored: Restored, target: str | None, draft: list[str] | None) -> list[str]:
    """The target, then the drafts.

    Raises:
        RecipeError: there is no such model, or nothing says which.
    """
    stage, known = restored.stage, list(restored.cast.frozen)
    targets = stage.teachers[:1] if target is None else (target,)
    if not targets:
        raise RecipeError([Problem(f"stage `{stage.name}` has no teacher to decode", "name it: `--target MODEL`")])
    names = [*targets, *(stage.train if draft is None else draft)]
    for name in names:
        if name not in known:
            raise RecipeError([Problem(f"`{name}` is no model of the recipe", did_you_mean(name, known))])
    return names


def _check(counts: dict[str, list[int]], temperatures: list[float], endpoint: str | None, baseline: str | None) -> None:
    """Refuse what leaves nothing to measure.

    Raises:
        RecipeError: with all of it.
    """
    problems = [
        Problem(f"--{name} {number}: give 1 or more")
        for name, numbers in counts.items()
        for number in numbers
        if number < 1
    ]
    problems += [Problem(f"--temperature {one:g}: give 0 or more") for one in temperatures if not one >= 0]
    if baseline is not None and endpoint is None:
        problems.append(Problem("--baseline is what an `--endpoint` is compared with, and there is none"))
    if problems:
        raise RecipeError(problems)


def _write(place: Path, content: Any) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
