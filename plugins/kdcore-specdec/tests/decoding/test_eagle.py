"""Every feature-level draft through the same decoding: what it says, and that nothing it says changes the output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from made import llama
from torch import Tensor

from drafts import KINDS, VOCABULARY, WIDTH, batch, draft, signals
from kdcore_specdec.decoding.base import Drafter, Sampler
from kdcore_specdec.decoding.cached import Cached
from kdcore_specdec.decoding.decode import autoregressive, speculative
from kdcore_specdec.models.eagle import Eagle3
from kdcore_specdec.models.falcon import Falcon
from kdcore_specdec.models.feature import FeatureDraft
from kdcore_specdec.models.fspad import FSPAD

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)
COUNTS = [(7 * i) % VOCABULARY for i in range(VOCABULARY)]
kinds = pytest.mark.parametrize("kind", KINDS)


def ready(kind: type[FeatureDraft], **keywords: Any) -> Any:
    """A draft that has met its target, in eval mode."""
    net, made = draft(kind, **keywords), batch()
    net(made, signals(TARGET, made))
    return net.eval()


def told(drafter: Drafter, tokens: Tensor) -> dict[int, Tensor]:
    """What the target gives of these tokens (1, n)."""
    with torch.no_grad():
        return Cached(TARGET, drafter.layers).read(tokens).layers


class Noting(Sampler):
    """Keeps the logits that it picks from, and picks what it is told to."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.tokens = tokens

    def pick(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        self.seen.append(logits)
        return torch.tensor(self.tokens[len(self.seen) - 1]), None


@kinds
@torch.no_grad()
def test_the_first_token_is_proposed_from_what_training_sees(kind: type[FeatureDraft]) -> None:
    """Read in parts or at once, with or without a rejected proposal in between."""
    made = batch(n=1)
    net = ready(kind)
    wanted = net(made, signals(TARGET, made))["logits"][0]
    ids = made["input_ids"]
    drafter = net.drafter(TARGET)
    layers = told(drafter, ids)
    drafter.start(ids[:, :4], {i: x[:, :3] for i, x in layers.items()})
    at = 3
    for further in (1, 2, 1, 2):
        sampler = Noting([7, 8, 9, 10])
        drafter.propose(4, sampler)
        last_of_block = kind is not Falcon or at % 3 == 0  # a block that ends elsewhere is free of another one's rows
        if last_of_block:
            torch.testing.assert_close(sampler.seen[0], wanted[at], atol=1e-5, rtol=1e-5)
        drafter.accept(ids[0, at + 1 : at + 1 + further], {i: x[:, at : at + further] for i, x in layers.items()})
        at += further


@torch.no_grad()
def test_a_chain_is_what_the_training_time_test_trains() -> None:
    made = batch(n=1)
    net = ready(Eagle3, steps=3)
    unrolled = net.train()(made, signals(TARGET, made))["unrolled"][0]
    ids = made["input_ids"]
    drafter = net.eval().drafter(TARGET)
    layers = told(drafter, ids)
    for t in (1, 4, 7):
        drafter.start(ids[:, : t + 1], {i: x[:, :t] for i, x in layers.items()})
        sampler = Noting([*ids[0, t + 1 :].tolist(), 0, 0, 0])  # the data's own tokens, as in training
        drafter.propose(3, sampler)
        for j, logits in enumerate(sampler.seen):
            if t + j < 10:
                torch.testing.assert_close(logits, net.lm_head(unrolled[j, t]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_fspad_goes_on_from_its_guess_of_the_feature() -> None:
    ids = batch(n=1)["input_ids"]
    net = ready(FSPAD)
    drafter = net.drafter(TARGET)
    hidden = told(drafter, ids)[TARGET.depth]
    drafter.start(ids[:, :4], {TARGET.depth: hidden[:, :3]})
    sampler = Noting([5, 6])
    drafter.propose(2, sampler)
    first = net({"input_ids": ids[:, :4]}, {"hidden": hidden[:, :4]})
    torch.testing.assert_close(sampler.seen[0], first["logits"][0, 3], atol=1e-5, rtol=1e-5)
    felt = torch.cat([hidden[:, :3], first["feature"][:, 3:4], hidden[:, :1]], 1)
    second = net({"input_ids": torch.cat([ids[:, :4], torch.tensor([[5]])], 1)}, {"hidden": felt})
    torch.testing.assert_close(sampler.seen[1], second["logits"][0, 4], atol=1e-5, rtol=1e-5)


@kinds
@pytest.mark.parametrize("kept", [None, 20])
def test_greedy_decoding_gives_the_same_tokens(kind: type[FeatureDraft], kept: int | None) -> None:
    drafter = ready(kind, draft_vocabulary=kept, token_counts=COUNTS).drafter(TARGET)
    for prompt in ([[3]], [[3, 9]], [[1, 2, 3, 4, 5, 6, 7]]):
        given = torch.tensor(prompt)
        plain = autoregressive(TARGET, given, tokens=20, sampler=Sampler())
        found, acceptance = speculative(TARGET, drafter, given, tokens=20, k=4, sampler=Sampler())
        assert found == plain
        assert acceptance.rounds <= 20


@kinds
def test_a_sampled_proposal_says_what_it_was_drawn_from(kind: type[FeatureDraft]) -> None:
    drafter = ready(kind, draft_vocabulary=20, token_counts=COUNTS).drafter(TARGET)
    ids = batch(n=1)["input_ids"]
    with torch.no_grad():
        drafter.start(ids, {i: x[:, :-1] for i, x in told(drafter, ids).items()})
        proposal = drafter.propose(3, Sampler(0.7, seed=1))
    assert proposal.probs is not None
    assert proposal.probs.shape == (3, VOCABULARY)
    torch.testing.assert_close(proposal.probs.sum(-1), torch.ones(3))
    assert ((proposal.probs > 0).sum(-1) <= 20).all()
    assert (proposal.probs.gather(1, proposal.tokens[:, None]) > 0).all()


@kinds
def test_sampled_decoding_runs_to_its_end(kind: type[FeatureDraft]) -> None:
    drafter = ready(kind).drafter(TARGET)
    found, acceptance = speculative(
        TARGET, drafter, torch.tensor([[1, 2, 3, 4]]), tokens=25, k=4, sampler=Sampler(1.0, seed=0)
    )
    assert len(found) == 25
    assert sum(acceptance.accepted) + acceptance.rounds >= 25


@kinds
def test_after_a_single_token_there_is_nothing_to_say(kind: type[FeatureDraft]) -> None:
    drafter = ready(kind).drafter(TARGET)
    empty = {i: torch.empty(1, 0, WIDTH) for i in drafter.layers}
    drafter.start(torch.tensor([[3]]), empty)
    assert drafter.propose(4, Sampler()).tokens.shape == (0,)
    assert drafter.propose(4, Sampler(1.0)).probs is None


@kinds
@torch.no_grad()
def test_a_new_sequence_forgets_the_one_before(kind: type[FeatureDraft]) -> None:
    drafter = ready(kind).drafter(TARGET)
    ids = batch(n=1)["input_ids"]
    layers = told(drafter, ids)
    drafter.start(ids[:, :6], {i: x[:, :5] for i, x in layers.items()})
    wanted = drafter.propose(4, Sampler()).tokens
    other = batch(n=1, seed=9)["input_ids"]
    drafter.start(other, {i: x[:, :-1] for i, x in told(drafter, other).items()})
    drafter.propose(4, Sampler())
    drafter.start(ids[:, :6], {i: x[:, :5] for i, x in layers.items()})
    assert torch.equal(drafter.propose(4, Sampler()).tokens, wanted)


@kinds
def test_which_of_the_targets_layers_it_reads(kind: type[FeatureDraft]) -> None:
    assert ready(kind).drafter(TARGET).layers == ((0, 1, 2) if kind is Eagle3 else (3,))


def test_half_precision_drafts_read_a_float32_target() -> None:
    for kind in KINDS:
        drafter = ready(kind).to(torch.bfloat16).drafter(TARGET)
        prompt = torch.tensor([[1, 2, 3, 4]])
        found, _ = speculative(TARGET, drafter, prompt, tokens=8, k=3, sampler=Sampler())
        assert found == autoregressive(TARGET, prompt, tokens=8, sampler=Sampler())
