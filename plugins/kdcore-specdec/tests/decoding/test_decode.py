"""Speculative decoding: the same tokens when greedy, the same distribution when not, whatever the draft is worth."""

from __future__ import annotations

import pytest
import torch
from made import llama, noisy
from torch import Tensor

from kdcore_specdec.decoding.base import Proposal, Sampler
from kdcore_specdec.decoding.decode import Acceptance, autoregressive, check_context, speculative, verify
from kdcore_specdec.decoding.draft import DraftModel

PROMPT = torch.tensor([[1, 5, 3, 7, 2]])


class Scripted:
    """Proposes what it is told, and writes down what it hears."""

    def __init__(self, script: list[list[int]], layers: tuple[int, ...] = ()) -> None:
        self.script, self.layers = iter(script), layers
        self.heard: list[tuple[list[int], dict[int, Tensor] | None]] = []

    def start(self, prompt: Tensor, layers: dict[int, Tensor] | None) -> None:
        self.heard.append((prompt[0].tolist(), layers))

    def propose(self, k: int, sampler: Sampler) -> Proposal:
        return Proposal(torch.tensor(next(self.script)[:k], dtype=torch.int64), None)

    def accept(self, tokens: Tensor, layers: dict[int, Tensor] | None) -> None:
        self.heard.append((tokens.tolist(), layers))


def greedy_by_hand(model, prompt: Tensor, n: int) -> list[int]:
    """No cache at all: the whole sequence is read again for every token."""
    ids = prompt
    for _ in range(n):
        ids = torch.cat([ids, model.lm(ids).logits[:, -1:].argmax(-1)], 1)
    return ids[0, prompt.shape[1] :].tolist()


def test_autoregressive_is_greedy_decoding_without_a_cache():
    target = llama(seed=0)
    assert autoregressive(target, PROMPT, tokens=12, sampler=Sampler()) == greedy_by_hand(target, PROMPT, 12)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("draft", ["itself", "another"])
@pytest.mark.parametrize("length", [1, 5])
def test_greedy_output_is_unchanged(k, draft, length):
    target = llama(seed=0)
    drafter = DraftModel(target if draft == "itself" else noisy(target))
    found, acceptance = speculative(target, drafter, PROMPT[:, :length], tokens=17, k=k, sampler=Sampler())
    assert found == greedy_by_hand(target, PROMPT[:, :length], 17)
    if draft == "itself":
        assert acceptance.rates == [1.0] * k
        assert acceptance.rounds == -(-17 // (k + 1))
    else:
        assert 0.0 < acceptance.rates[0] < 1.0


def test_a_drafter_serves_one_sequence_after_another():
    target, drafter = llama(seed=0), DraftModel(llama(seed=1, layers=1))
    for prompt in (PROMPT, PROMPT[:, :2], PROMPT):
        found, _ = speculative(target, drafter, prompt, tokens=9, k=3, sampler=Sampler())
        assert found == greedy_by_hand(target, prompt, 9)


def test_a_stop_token_ends_the_sequence_inside_a_proposal():
    target = llama(seed=0)
    whole = greedy_by_hand(target, PROMPT, 12)
    stop = frozenset({whole[4]})
    expected = whole[: whole.index(whole[4]) + 1]
    assert autoregressive(target, PROMPT, tokens=12, sampler=Sampler(), stop=stop) == expected
    found, _ = speculative(target, DraftModel(target), PROMPT, tokens=12, k=5, sampler=Sampler(), stop=stop)
    assert found == expected


def test_the_drafter_hears_what_was_taken_with_the_hidden_states_before_it():
    target = llama(seed=0)
    right = greedy_by_hand(target, PROMPT, 8)
    wrong = (right[3] + 1) % 40
    drafter = Scripted([[right[0], right[1]], [wrong, 0], []], layers=(0, -1))
    found, acceptance = speculative(target, drafter, PROMPT, tokens=5, k=2, sampler=Sampler())
    assert found == right[:5]
    tokens = [heard[0] for heard in drafter.heard]
    # both taken and one of the target's own; none taken; then only one token is missing, so nothing is proposed
    assert tokens == [PROMPT[0].tolist(), right[:3], [right[3]]]
    assert (acceptance.tested, acceptance.accepted, acceptance.rounds) == ([2, 1], [1, 1], 3)
    ids = torch.cat([PROMPT, torch.tensor([right])], 1)
    states = target(ids, layers=(0, -1)).layers
    begin = 0
    for (_, layers), count in zip(drafter.heard, (4, 3, 1), strict=True):
        assert layers is not None
        for index in (0, -1):
            assert torch.allclose(layers[index], states[index][:, begin : begin + count], atol=1e-5)
        begin += count


def test_a_prompt_of_one_token_comes_without_hidden_states():
    target = llama(seed=0)
    drafter = Scripted([[]] * 3, layers=(0,))
    speculative(target, drafter, PROMPT[:, :1], tokens=3, k=2, sampler=Sampler())
    layers = drafter.heard[0][1]
    assert layers is not None
    assert layers[0].shape == (1, 0, 16)


def test_an_ordinary_draft_gets_no_hidden_states():
    drafter = Scripted([[]] * 3)
    speculative(llama(seed=0), drafter, PROMPT, tokens=3, k=2, sampler=Sampler())
    assert [heard[1] for heard in drafter.heard] == [None] * 3


@torch.inference_mode()
def test_sampling_is_exact_for_one_position():
    """2,000 draws against p; the proposal comes from a very different q."""
    sampler = Sampler(temperature=1.0, seed=0)
    p, q = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0]), torch.tensor([0.6, 0.1, 0.1, 0.0, 0.2])
    logits = p.log().expand(2, 5)
    counts, taken = torch.zeros(5), 0
    for _ in range(2_000):
        token = sampler.draw(q)
        accepted, own = verify(Proposal(token.view(1), q[None]), logits, sampler)
        counts[token if accepted else own] += 1
        taken += accepted
    expected = 2_000 * p
    assert counts[4] == 0
    chi_squared = ((counts - expected).square() / expected)[:4].sum()
    assert chi_squared < 16.3  # 3 degrees of freedom, one in a thousand
    assert taken / 2_000 == pytest.approx(torch.minimum(p, q).sum().item(), abs=0.04)


@torch.inference_mode()
def test_a_token_that_was_certain_is_taken_as_often_as_the_target_says():
    sampler = Sampler(temperature=1.0, seed=0)
    p = torch.tensor([0.25, 0.5, 0.25])
    counts, n = torch.zeros(3), 1500
    for _ in range(n):
        accepted, own = verify(Proposal(torch.tensor([1]), None), p.log().expand(2, 3), sampler)
        counts[1 if accepted else own] += 1
        assert accepted or own != 1
    assert torch.allclose(counts / n, p, atol=0.05)


def test_equal_distributions_are_always_accepted():
    sampler = Sampler(temperature=0.7, seed=0)
    logits = torch.randn(4, 9)
    q = sampler.probabilities(logits)
    for _ in range(200):
        tokens = torch.stack([sampler.draw(row) for row in q[:3]])
        accepted, _ = verify(Proposal(tokens, q[:3]), logits, sampler)
        assert accepted == 3


def test_greedy_takes_up_to_the_first_difference():
    logits = torch.eye(5)[[2, 0, 4, 1]]
    for proposed, accepted, own in (([2, 0, 4], 3, 1), ([2, 1, 4], 1, 0), ([0, 0, 4], 0, 2)):
        found = verify(Proposal(torch.tensor(proposed), None), logits, Sampler())
        assert (found[0], int(found[1])) == (accepted, own)


def test_the_same_seed_samples_the_same():
    target = llama(seed=0)

    def sample(seed: int) -> list[int]:
        drafter = DraftModel(llama(seed=1, layers=1))
        return speculative(target, drafter, PROMPT, tokens=10, k=3, sampler=Sampler(1.0, seed))[0]

    assert sample(3) == sample(3) != sample(4)


def test_acceptance_adds_up():
    one, two = Acceptance(), Acceptance()
    one.add(3, 3)
    one.add(3, 1)
    two.add(4, 0)
    two.add(0, 0)
    one += two
    assert one.tested == [3, 2, 1, 0]
    assert one.accepted == [2, 1, 1, 0]
    assert one.rates == [2 / 3, 0.5, 1.0, 0.0]
    assert one.rounds == 4
    assert one.mean_length == 1.0
    assert Acceptance().mean_length == 0.0


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="a prompt of 5 tokens and 60 new ones make 65, and the target sees 64"):
        autoregressive(llama(seed=0), PROMPT, tokens=60, sampler=Sampler())
    with pytest.raises(ValueError, match="the target sees 64"):
        speculative(llama(seed=0), Scripted([]), PROMPT, tokens=60, k=2, sampler=Sampler())
    check_context(llama(seed=0), PROMPT, 59, "draft")


def test_a_negative_temperature_is_refused():
    with pytest.raises(ValueError, match=r"temperature=-1 is negative: 0 is greedy"):
        Sampler(-1)
