"""Models of a finished run, or servers, measured at the temperatures that were asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdcore.data.base import Data
from kdcore.run.restore import Restored
from kdcore_specdec.commands import lines
from kdcore_specdec.data.corpus import Corpus
from kdcore_specdec.decoding.bench import DEFINITIONS, Candidate, Setting, bench
from kdcore_specdec.decoding.draft import drafter_of
from kdcore_specdec.decoding.endpoint import Server, bench_servers
from kdcore_specdec.decoding.prompts import prompts_of
from kdcore_specdec.models.causal import CausalLM

UNLIMITED = 1 << 62
"""Tokens of a context that nobody limits."""


@dataclass(frozen=True)
class Wanted:
    """What is measured, as the options say it."""

    k: list[int]
    temperatures: list[float]
    tokens: int
    prompt: int
    prompts: int
    rounds: int
    draws: int
    seed: int


def measure_models(
    restored: Restored, target: str, drafts: list[str], wanted: Wanted, say: Callable[[str], None]
) -> dict[str, Any]:
    """Plain data: the conditions, and a result for each temperature.

    Raises:
        ValueError: a model that cannot be decoded, or vocabularies or data that do not fit.
        RunError: there are no prompts.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus, model = _corpus(restored.data), _language_model(restored, target).to(device)
    others = {name: restored.cast.module(name).to(device).eval() for name in drafts}
    context = min(int(getattr(one, "context", None) or UNLIMITED) for one in (model, *others.values()))
    prompts = prompts_of(corpus, wanted.prompts, at_least=wanted.prompt, at_most=context - wanted.tokens)
    candidates = [Candidate(name, drafter_of(others[name], model), k) for name in drafts for k in wanted.k]
    for name, text in DEFINITIONS.items():
        say(f"{name.replace('_', ' ')}: {text}")
    results = []
    for temperature in wanted.temperatures:
        setting = Setting(
            [prompt.to(device) for prompt in prompts],
            wanted.tokens,
            temperature,
            frozenset({corpus.tokenizer.end}),
            wanted.seed,
        )
        results.append(bench(model, candidates, setting, rounds=wanted.rounds, draws=wanted.draws))
        for line in lines.of_models(results[-1]):
            say(line)
    return {
        "target": target,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(model.head.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        **_conditions(wanted, prompts),
        "definitions": dict(DEFINITIONS),
        "results": results,
    }


def measure_servers(data: Data, servers: list[Server], wanted: Wanted, say: Callable[[str], None]) -> dict[str, Any]:
    """Plain data: the conditions, and a result for each temperature.

    Raises:
        ValueError: an address that is none, or data without text.
        RunError: there are no prompts, or a server does not answer.
    """
    corpus = _corpus(data)
    prompts = prompts_of(corpus, wanted.prompts, at_least=wanted.prompt, at_most=UNLIMITED)
    texts = [corpus.tokenizer.decode(prompt[0].tolist()) for prompt in prompts]
    results = []
    for temperature in wanted.temperatures:
        results.append(
            bench_servers(servers, texts, tokens=wanted.tokens, temperature=temperature, rounds=wanted.rounds)
        )
        for line in lines.of_servers(results[-1]):
            say(line)
    return {**_conditions(wanted, prompts), "results": results}


def _conditions(wanted: Wanted, prompts: list[Tensor]) -> dict[str, Any]:
    return {
        "tokens": wanted.tokens,
        "rounds": wanted.rounds,
        "seed": wanted.seed,
        "prompts": [prompt.shape[1] for prompt in prompts],
    }


def _corpus(data: Data) -> Corpus:
    if not isinstance(data, Corpus):
        raise ValueError(f"prompts are the beginnings of texts, and the data is a {type(data).__name__}")
    return data


def _language_model(restored: Restored, name: str) -> CausalLM:
    model = restored.cast.module(name)
    if not isinstance(model, CausalLM):
        raise ValueError(
            f"`{name}` is a {type(model).__name__}, which cannot be decoded by itself: name another with `--target`"
        )
    return model.eval()
