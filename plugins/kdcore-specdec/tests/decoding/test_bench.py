"""Who decodes when, what is counted, and what is said about it."""

from __future__ import annotations

import pytest
import torch
from made import llama, noisy

from kdcore_specdec.decoding import bench as bench_module
from kdcore_specdec.decoding.base import Sampler
from kdcore_specdec.decoding.bench import DEFINITIONS, Candidate, Setting, bench, ratios, spread, take_turns
from kdcore_specdec.decoding.decode import speculative
from kdcore_specdec.decoding.draft import DraftModel

PROMPTS = [torch.tensor([[1, 5, 3]]), torch.tensor([[2, 8]])]


def test_ways_take_turns_and_each_prompt_begins_with_another(monkeypatch):
    calls: list[tuple[str, int, int]] = []
    clock = [0.0]
    monkeypatch.setattr(bench_module.time, "perf_counter", lambda: clock[0])

    def way(name: str, seconds: float, tokens: int):
        def run(number: int, round_: int) -> int:
            calls.append((name, number, round_))
            clock[0] += seconds * (round_ + 1)
            return tokens

        return run

    speeds = take_turns([way("a", 2.0, 10), way("b", 1.0, 8)], prompts=2, rounds=2)
    assert speeds == [[5.0, 2.5], [8.0, 4.0]]
    assert calls[:2] == [("a", 0, 0), ("b", 0, 0)]  # unmeasured
    assert [(name, number) for name, number, _ in calls[2:]] == [
        ("a", 0), ("b", 0), ("b", 1), ("a", 1), ("b", 0), ("a", 0), ("a", 1), ("b", 1),
    ]  # fmt: skip


def test_spread_and_ratios():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert ratios([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == {"median": 3.0, "min": 2.0, "max": 4.0}


def test_a_greedy_bench():
    target = llama()
    candidates = [Candidate("itself", DraftModel(target), 3), Candidate("noisy", DraftModel(noisy(target)), 2)]
    found = bench(target, candidates, Setting(PROMPTS, 9, 0.0), rounds=2, draws=1)
    assert found["temperature"] == 0.0
    assert len(found["autoregressive"]["tokens_per_second"]) == 2
    itself, other = found["drafts"]
    assert (itself["draft"], itself["k"], other["draft"], other["k"]) == ("itself", 3, "noisy", 2)
    assert itself["acceptance"] == [1.0, 1.0, 1.0]
    # 9 tokens in rounds of 3 + 1, 3 + 1 and 0 + 1
    assert itself["mean_accepted_length"] == pytest.approx(2.0)
    assert itself["tokens_per_round"] == pytest.approx(3.0)
    assert itself["unchanged"]
    assert itself["evidence"] == "identical tokens for 2 of 2 prompts"
    assert 0 < other["acceptance"][0] < 1
    assert len(other["tokens_per_second"]) == 2
    assert itself["speedup"]["min"] <= itself["speedup"]["median"] <= itself["speedup"]["max"]


def test_acceptance_is_counted_once_for_each_prompt_and_round():
    target = llama()
    drafter = DraftModel(noisy(target))
    found = bench(target, [Candidate("noisy", drafter, 2)], Setting(PROMPTS, 9, 0.0), rounds=3, draws=1)
    accepted = rounds = 0
    for prompt in PROMPTS:
        _, acceptance = speculative(target, drafter, prompt, tokens=9, k=2, sampler=Sampler())
        accepted, rounds = accepted + sum(acceptance.accepted), rounds + acceptance.rounds
    assert found["drafts"][0]["mean_accepted_length"] == pytest.approx(accepted / rounds)


def test_a_bench_that_samples_tests_the_distribution():
    target = llama(layers=1, vocabulary=12)
    candidates = [Candidate("noisy", DraftModel(noisy(target)), 2)]
    found = bench(target, candidates, Setting(PROMPTS, 4, 1.0), rounds=1, draws=30)
    assert found["drafts"][0]["unchanged"]
    assert "over 30 draws" in found["drafts"][0]["evidence"]


def test_a_drafter_that_breaks_the_output_is_reported(monkeypatch):
    target = llama()
    monkeypatch.setattr(
        "kdcore_specdec.decoding.decode.verify", lambda proposal, logits, sampler: (0, logits[0].argmin(-1))
    )
    found = bench(target, [Candidate("itself", DraftModel(target), 2)], Setting(PROMPTS, 4, 0.0), rounds=1, draws=1)
    assert not found["drafts"][0]["unchanged"]
    assert "prompt 0 differs at token 0" in found["drafts"][0]["evidence"]


def test_samplers_differ_by_prompt_and_round_only():
    setting = Setting(PROMPTS, 4, 1.0, seed=5)
    seeds = {setting.sampler(n, r).generator.initial_seed() for n in range(2) for r in range(3)}
    assert len(seeds) == 6
    assert setting.sampler(1, 2).generator.initial_seed() == setting.sampler(1, 2).generator.initial_seed()


def test_the_definition_says_whether_the_bonus_token_counts():
    assert "WITHOUT the one token that the target adds itself" in DEFINITIONS["mean_accepted_length"]
