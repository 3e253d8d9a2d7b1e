"""An ordinary draft reads each token once, whatever became of its proposals."""

from __future__ import annotations

import pytest
import torch
from made import llama

from kdcore_specdec.decoding.base import Sampler
from kdcore_specdec.decoding.draft import DraftModel, drafter_of

PROMPT = torch.tensor([[1, 5, 3, 7]])


def proposed_by_hand(model, known: torch.Tensor, k: int) -> list[int]:
    for _ in range(k):
        known = torch.cat([known, model.lm(known).logits[:, -1:].argmax(-1)], 1)
    return known[0, -k:].tolist()


@torch.inference_mode()
@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_it_goes_on_from_what_was_taken(taken):
    model, sampler = llama(seed=2), Sampler()
    drafter = DraftModel(model)
    drafter.start(PROMPT, None)
    known = PROMPT
    for own in (9, 4):
        tokens = drafter.propose(3, sampler).tokens
        assert tokens.tolist() == proposed_by_hand(model, known, 3)
        accepted = torch.cat([tokens[:taken], torch.tensor([own])])
        drafter.accept(accepted, None)
        known = torch.cat([known, accepted[None]], 1)
    assert drafter.propose(2, sampler).tokens.tolist() == proposed_by_hand(model, known, 2)


@torch.inference_mode()
def test_the_distributions_are_those_it_drew_from():
    model, sampler = llama(seed=2), Sampler(temperature=0.7, seed=1)
    drafter = DraftModel(model)
    drafter.start(PROMPT, None)
    tokens, probs = drafter.propose(3, sampler)
    assert probs is not None
    whole = torch.cat([PROMPT, tokens[None, :-1]], 1)
    expected = (model.lm(whole).logits[0, -3:] / 0.7).softmax(-1)
    assert torch.allclose(probs, expected, atol=1e-5)


@torch.inference_mode()
def test_greedy_proposals_have_no_distributions():
    drafter = DraftModel(llama(seed=2))
    drafter.start(PROMPT, None)
    assert drafter.propose(2, Sampler()).probs is None


def test_who_drafts():
    target = llama()
    assert isinstance(drafter_of(llama(layers=1), target), DraftModel)

    class Feature(torch.nn.Module):
        def drafter(self, of):
            return "made for", of

    assert drafter_of(Feature(), target) == ("made for", target)


def test_who_cannot_draft():
    target = llama()
    with pytest.raises(ValueError, match="the draft tells 12 tokens apart and the target 40: a draft proposes"):
        drafter_of(llama(vocabulary=12), target)
    with pytest.raises(ValueError, match="a Linear proposes no tokens: choose a language model or a feature-"):
        drafter_of(torch.nn.Linear(1, 1), target)
