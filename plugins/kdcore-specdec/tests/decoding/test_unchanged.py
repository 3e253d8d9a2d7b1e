"""The checks that output is unchanged find what is wrong, and only that."""

from __future__ import annotations

import re

import pytest
import torch
from made import llama, noisy

from kdcore_specdec.decoding import decode, unchanged
from kdcore_specdec.decoding.base import Proposal, Sampler
from kdcore_specdec.decoding.decode import autoregressive
from kdcore_specdec.decoding.draft import DraftModel
from kdcore_specdec.decoding.unchanged import chi_squared, same_distribution, same_tokens

PROMPT = torch.tensor([[1, 5, 3, 7, 2]])


def test_identical_tokens():
    target = llama()
    found = same_tokens(target, [PROMPT, PROMPT[:, :2]], {0: [1, 2], 1: [3]}, {0: [1, 2], 1: [3]})
    assert found.ok
    assert found.why == "identical tokens for 2 of 2 prompts"


def test_a_wrong_token_is_found_and_said():
    target = llama()
    right = autoregressive(target, PROMPT, tokens=5, sampler=Sampler())
    wrong = [*right[:2], (right[2] + 1) % 40, *right[3:]]
    found = same_tokens(target, [PROMPT], {0: wrong}, {0: right})
    read = torch.cat([PROMPT, torch.tensor([right[:2]])], 1)
    logits = target(read).logits[0, -1]
    gap = (logits[right[2]] - logits[wrong[2]]).item()
    assert not found.ok
    said = f"prompt 0 differs at token 2, where the logits are {gap:.2g} apart"
    assert found.why == f"the output is not the target's: {said}"


def test_a_tie_is_no_fault_and_is_said():
    target = llama()
    right = autoregressive(target, PROMPT, tokens=5, sampler=Sampler())
    other = (right[2] + 1) % 40
    with torch.no_grad():
        target.head[other] = target.head[right[2]]
    found = same_tokens(target, [PROMPT], {0: [*right[:2], other, 0]}, {0: right})
    assert found.ok
    assert found.why == "identical tokens for 0 of 1 prompts; 1 part at logits that tie within 0.0001"


@pytest.mark.parametrize(("ours", "theirs"), [([1, 2], [1, 2, 3]), ([1, 2, 3], [1, 2])])
def test_ending_elsewhere_is_a_change(ours, theirs):
    found = same_tokens(llama(), [PROMPT], {0: ours}, {0: theirs})
    assert not found.ok
    assert "differs at token 2" in found.why


def test_sampling_through_a_draft_passes():
    target = llama(layers=1, vocabulary=12)
    sampler = Sampler(temperature=1.0, seed=0)
    found = same_distribution(target, DraftModel(noisy(target)), [PROMPT], k=3, sampler=sampler, draws=60)
    assert found.ok, found.why
    assert re.fullmatch(r"chi-squared tests of the first two tokens over 60 draws: p = [\d.]+", found.why)


@pytest.mark.parametrize("broken", ["always accepts", "keeps what it refused"])
def test_a_wrong_rule_is_found(monkeypatch, broken):
    target, other = (llama(layers=1, vocabulary=12, seed=seed) for seed in (0, 3))

    def verify(proposal: Proposal, logits, sampler):
        k = len(proposal.tokens)
        if broken == "always accepts":
            return k, sampler.draw(sampler.probabilities(logits[k]))
        return 0, sampler.draw(proposal.probs[0]) if k else sampler.draw(sampler.probabilities(logits[0]))

    monkeypatch.setattr("kdcore_specdec.decoding.decode.verify", verify)
    sampler = Sampler(temperature=1.0, seed=0)
    found = same_distribution(target, DraftModel(other), [PROMPT], k=2, sampler=sampler, draws=60)
    assert not found.ok
    assert found.why.endswith("the output is not distributed as the target's")


def test_the_second_token_is_looked_at(monkeypatch):
    """A rule that is right for the first token of a proposal only."""
    target = llama(layers=1, vocabulary=12)
    right = decode.verify

    def verify(proposal: Proposal, logits, sampler):
        if len(proposal.tokens) < 2:
            return right(proposal, logits, sampler)
        accepted, own = right(Proposal(proposal.tokens[:1], proposal.probs[:1]), logits[:2], sampler)
        return (2, sampler.draw(sampler.probabilities(logits[2]))) if accepted else (0, own)

    monkeypatch.setattr("kdcore_specdec.decoding.decode.verify", verify)
    sampler = Sampler(temperature=1.0, seed=0)
    found = same_distribution(target, DraftModel(noisy(target, 0.5)), [PROMPT], k=2, sampler=sampler, draws=200)
    assert not found.ok


def test_the_distributions_are_those_of_a_loop():
    target, sampler = llama(vocabulary=12), Sampler(temperature=0.8)
    first, support, second = unchanged._distributions(target, PROMPT, sampler)
    one = (target(PROMPT).logits[0, -1] / 0.8).softmax(-1)
    assert torch.allclose(first, one, atol=1e-5)
    assert sorted(support.tolist()) == list(range(12))
    longer = [torch.cat([PROMPT, torch.tensor([[t]])], 1) for t in range(12)]
    expected = sum(one[t] * (target(longer[t]).logits[0, -1] / 0.8).softmax(-1) for t in range(12))
    assert torch.allclose(second, expected, atol=1e-5)


def test_chi_squared_by_hand():
    drawn = torch.tensor([0] * 40 + [1] * 60)
    # (40 - 50)^2 / 50 twice is 4.0; with one degree of freedom p is 0.0455
    assert chi_squared(drawn, torch.tensor([0.5, 0.5])) == pytest.approx(0.0455, abs=1e-4)


def test_rare_values_are_counted_together():
    probabilities = torch.tensor([0.48, 0.46, *[0.01] * 6])
    drawn = torch.tensor([0] * 48 + [1] * 46 + [2, 3, 4, 5, 6, 7])
    assert chi_squared(drawn, probabilities) == pytest.approx(1.0)
    # all six rare ones fall on one value: together they are as expected
    assert chi_squared(torch.tensor([0] * 48 + [1] * 46 + [2] * 6), probabilities) == pytest.approx(1.0)
    # the rest is too rare for a class of its own and joins the rarest of the others
    few = torch.tensor([0.5, 0.48, 0.01, 0.01])
    assert chi_squared(torch.tensor([0] * 50 + [1] * 48 + [2] * 2), few) == pytest.approx(1.0)


def test_nothing_to_compare_is_no_evidence():
    assert chi_squared(torch.tensor([0, 1, 2]), torch.full((40,), 1 / 40)) is None
    assert chi_squared(torch.empty(0, dtype=torch.int64), torch.tensor([0.5, 0.5])) is None
    target = llama(layers=1, vocabulary=12)
    found = same_distribution(target, DraftModel(target), [PROMPT], k=2, sampler=Sampler(1.0), draws=2)
    assert found.ok is None
    assert found.why == "2 draws are too few for a chi-squared test of tokens that are so unlikely"


def test_the_prompt_after_which_the_target_is_least_certain(monkeypatch):
    target, sampler = llama(layers=1, vocabulary=12), Sampler(temperature=1.0)
    prompts = [torch.tensor([[n, n + 1]]) for n in range(6)]
    by_hand = []
    for prompt in prompts:
        p = target(prompt).logits[0, -1].softmax(-1)
        by_hand.append(-(p * p.log()).sum().item())
    asked = []

    def draw(target, drafter, prompt, **options):
        asked.append(prompt.tolist())
        return [0, 0, 0], None

    monkeypatch.setattr(unchanged, "speculative", draw)
    same_distribution(target, DraftModel(target), prompts, k=2, sampler=sampler, draws=3)
    assert asked == [prompts[by_hand.index(max(by_hand))].tolist()] * 3
