"""Tokens per second with and without a draft, measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from kdcore_specdec.decoding.base import Drafter, Sampler
from kdcore_specdec.decoding.decode import Acceptance, autoregressive, speculative
from kdcore_specdec.decoding.unchanged import Unchanged, same_distribution, same_tokens
from kdcore_specdec.models.causal import CausalLM

DEFINITIONS: Mapping[str, str] = {
    "tokens_per_second": "new tokens / seconds from the prompt to the last token, reading the prompt included, a value "
    "for each round over all prompts; the ways take turns at every prompt",
    "speedup": "tokens per second with the draft / without, round by round",
    "acceptance": "at each position of a proposal, the share of tokens accepted, of those looked at: all tokens before "
    "them in the proposal had been accepted",
    "mean_accepted_length": "accepted tokens of the draft per round of verification, WITHOUT the one token that the "
    "target adds itself in every round (the bonus token)",
    "tokens_per_round": "mean_accepted_length + 1: the same with it, often called block efficiency",
}


@dataclass(frozen=True)
class Setting:
    """What everybody decodes.

    Attributes:
        prompts: (1, n) each.
        tokens: how many new ones, at most.
        temperature: 0 for greedy decoding.
        stop: tokens that end a sequence.
        seed: of sampling.
    """

    prompts: Sequence[Tensor]
    tokens: int
    temperature: float
    stop: frozenset[int] = frozenset()
    seed: int = 0

    def sampler(self, number: int, round_: int) -> Sampler:
        """The same for every way at one prompt of one round."""
        prompt = self.prompts[number]
        return Sampler(self.temperature, self.seed + 1000 * round_ + number, prompt.device)


@dataclass
class Way:
    """One way of decoding, and what came of it.

    Attributes:
        decode: (prompt, sampler) -> new tokens, and what was accepted of a draft.
        setting: what is decoded.
        acceptances: of each prompt in each round.
        said: the new tokens of each prompt, by its number; of the latest round.
    """

    decode: Callable[[Tensor, Sampler], tuple[list[int], Acceptance]]
    setting: Setting
    acceptances: dict[tuple[int, int], Acceptance] = field(default_factory=dict)
    said: dict[int, list[int]] = field(default_factory=dict)

    def __call__(self, number: int, round_: int) -> int:
        """Decode one prompt; how many tokens that made."""
        said, acceptance = self.decode(self.setting.prompts[number], self.setting.sampler(number, round_))
        self.said[number], self.acceptances[number, round_] = said, acceptance
        return len(said)

    @property
    def acceptance(self) -> Acceptance:
        """Over all prompts and rounds."""
        whole = Acceptance()
        for one in self.acceptances.values():
            whole += one
        return whole


@dataclass(frozen=True)
class Candidate:
    """A draft, by its name in the recipe, and how many tokens it proposes at a time."""

    name: str
    drafter: Drafter
    k: int


def bench(
    target: CausalLM, candidates: Sequence[Candidate], setting: Setting, *, rounds: int, draws: int
) -> dict[str, Any]:
    """Measure candidates against the target alone, and check that they change nothing.

    Args:
        target: in eval mode, on the prompts' device.
        candidates: drafts on the same device.
        setting: what is decoded.
        rounds: over all prompts.
        draws: for the test of distributions, where it samples.

    Returns:
        Plain data: ``temperature``, ``autoregressive`` and a list ``drafts``; see :data:`DEFINITIONS`.
    """
    alone = Way(partial(_alone, target, setting), setting)
    ways = [Way(partial(_drafted, target, one, setting), setting) for one in candidates]
    speeds = take_turns([alone, *ways], len(setting.prompts), rounds)
    return {
        "temperature": setting.temperature,
        "autoregressive": {"tokens_per_second": speeds[0]},
        "drafts": [
            _described(one, way, speed, speeds[0], _unchanged(target, one, way, alone, draws))
            for one, way, speed in zip(candidates, ways, speeds[1:], strict=True)
        ],
    }


def take_turns(ways: Sequence[Callable[[int, int], int]], prompts: int, rounds: int) -> list[list[float]]:
    """Every way decodes every prompt in every round; who goes first changes from prompt to prompt.

    Before that each decodes one prompt unmeasured.

    Args:
        ways: (number of the prompt, number of the round) -> number of new tokens, when they are all there.
        prompts: how many.
        rounds: how many.

    Returns:
        Tokens per second of each way in each round.
    """
    for way in ways:
        way(0, 0)
    speeds: list[list[float]] = [[] for _ in ways]
    for round_ in range(rounds):
        seconds, counts = [0.0] * len(ways), [0] * len(ways)
        for number in range(prompts):
            first = (round_ + number) % len(ways)
            for index in (*range(first, len(ways)), *range(first)):
                start = time.perf_counter()
                counts[index] += ways[index](number, round_)
                seconds[index] += time.perf_counter() - start
        for speed, count, spent in zip(speeds, counts, seconds, strict=True):
            speed.append(count / spent)
    return speeds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times as fast, round by round."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def _alone(target: CausalLM, setting: Setting, prompt: Tensor, sampler: Sampler) -> tuple[list[int], Acceptance]:
    said = autoregressive(target, prompt, tokens=setting.tokens, sampler=sampler, stop=setting.stop)
    return said, Acceptance()


def _drafted(
    target: CausalLM, candidate: Candidate, setting: Setting, prompt: Tensor, sampler: Sampler
) -> tuple[list[int], Acceptance]:
    drafter, k = candidate.drafter, candidate.k
    return speculative(target, drafter, prompt, tokens=setting.tokens, k=k, sampler=sampler, stop=setting.stop)


def _unchanged(target: CausalLM, candidate: Candidate, way: Way, alone: Way, draws: int) -> Unchanged:
    setting, drafter, k = way.setting, candidate.drafter, candidate.k
    if setting.temperature == 0.0:
        return same_tokens(target, setting.prompts, way.said, alone.said)
    return same_distribution(target, drafter, setting.prompts, k=k, sampler=setting.sampler(0, 0), draws=draws)


def _described(
    candidate: Candidate, way: Way, speed: list[float], alone: list[float], unchanged: Unchanged
) -> dict[str, Any]:
    acceptance = way.acceptance
    return {
        "draft": candidate.name,
        "k": candidate.k,
        "tokens_per_second": speed,
        "speedup": ratios(speed, alone),
        "acceptance": acceptance.rates,
        "mean_accepted_length": acceptance.mean_length,
        "tokens_per_round": acceptance.mean_length + 1.0,
        "unchanged": unchanged.ok,
        "evidence": unchanged.why,
    }
