from __future__ import annotations

import torch
from made import llama

from drafts import VOCABULARY, WIDTH, batch, draft, signals
from kdcore_specdec.decoding.base import Sampler
from kdcore_specdec.decoding.cached import Cached
from kdcore_specdec.decoding.medusa import HeadsDrafter
from kdcore_specdec.models.medusa import Medusa

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)


def started(net: Medusa) -> HeadsDrafter:
    ids = batch(n=1)["input_ids"]
    net(batch(), signals(TARGET, batch()))
    drafter = HeadsDrafter(net.eval(), TARGET)
    drafter.start(ids, Cached(TARGET, (3,)).read(ids[:, :-1]).layers)
    return drafter


@torch.no_grad()
def test_it_proposes_no_more_than_it_has_heads() -> None:
    drafter = started(draft(Medusa, heads=2))
    assert len(drafter.propose(5, Sampler()).tokens) == 2
    assert len(drafter.propose(1, Sampler()).tokens) == 1


@torch.no_grad()
def test_each_token_is_the_likeliest_of_its_head() -> None:
    """All from one hidden state, that of the last token but one."""
    net = draft(Medusa, heads=3)
    found = started(net).propose(3, Sampler()).tokens
    ids = batch(n=1)["input_ids"]
    hidden = TARGET(ids[:, :-1]).hidden[0, -1]
    for k in range(3):
        inner = torch.nn.functional.silu(net.w1[k] @ hidden) + hidden
        assert found[k] == (net.w2[k] @ inner).argmax()


@torch.no_grad()
def test_untrained_heads_repeat_what_the_target_has_just_chosen() -> None:
    net = Medusa(vocabulary=VOCABULARY, width=WIDTH, heads=3)
    found = started(net).propose(3, Sampler()).tokens
    said = TARGET(batch(n=1)["input_ids"][:, :-1]).logits[0, -1].argmax()
    assert found.tolist() == [said] * 3
