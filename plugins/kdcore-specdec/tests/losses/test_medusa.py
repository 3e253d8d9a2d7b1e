from __future__ import annotations

import pytest
import torch
from made import llama
from torch.nn.functional import cross_entropy

from drafts import VOCABULARY, WIDTH, batch, draft, signals
from kdcore_specdec.losses.medusa import Medusa, within
from kdcore_specdec.models.medusa import Medusa as Draft

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)


def test_every_head_is_held_against_its_own_token_ahead() -> None:
    """Equation 1: head k reads the hidden state at t - 1 and learns token t + k."""
    made = batch()
    given = signals(TARGET, made)
    net = draft(Draft)
    totals = Medusa()(net(made, given), {}, made)
    assert list(totals) == ["head1", "head2", "head3"]
    ids = made["input_ids"]
    for k in (1, 2, 3):
        logits = net.ahead(given["hidden"])[:, k - 1] @ net.w2[k - 1].T  # at s, about token s + k + 1
        wanted = cross_entropy(logits[:, : 9 - k].flatten(0, 1), ids[:, k + 1 :].flatten(), reduction="sum")
        assert totals[f"head{k}"].sum.item() == pytest.approx(0.8**k * wanted.item(), rel=1e-4)
        assert totals[f"head{k}"].count.item() == 2 * (9 - k)


def test_heads_stay_within_their_document() -> None:
    made = batch(n=1, packed=True)  # documents of 4 and 4 tokens, each with 3 labels
    totals = Medusa()(draft(Draft)(made, signals(TARGET, made)), {}, made)
    assert [total.count.item() for total in totals.values()] == [4, 2, 0]


def test_tokens_outside_a_small_vocabulary_are_left_out() -> None:
    made = batch()
    counts = [0] * VOCABULARY
    kept = made["input_ids"][0, 5].item()
    counts[kept] = 1
    net = draft(Draft, draft_vocabulary=1, token_counts=counts)
    total = Medusa()(net(made, signals(TARGET, made)), {}, made)["head1"]
    assert total.count.item() == (made["labels"][:, 1:] == kept).sum().item() >= 1
    assert total.sum.item() == pytest.approx(0.0)  # one token is certain


def test_ids_are_translated_and_others_ignored() -> None:
    labels = torch.tensor([[3, 0, 9, -100, 7, 8]])
    assert within(labels, torch.tensor([3, 7, 8])).tolist() == [[0, -100, -100, -100, 1, 2]]


def test_heads_get_gradients() -> None:
    made, net = batch(), draft(Draft)
    sum(total.sum for total in Medusa()(net(made, signals(TARGET, made)), {}, made).values()).backward()
    assert all(net.w1.grad[k].any() and net.w2.grad[k].any() for k in range(3))


def test_a_decay_or_chunk_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="decay=2 is not in"):
        Medusa(decay=2)
    with pytest.raises(ValueError, match="chunk=0 is no number of tokens from 1 on"):
        Medusa(chunk=0)
