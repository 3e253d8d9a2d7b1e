from __future__ import annotations

import pytest
from made import llama
from torch.nn.functional import smooth_l1_loss

from drafts import VOCABULARY, WIDTH, batch, draft, signals
from kdcore_specdec.losses.fspad import FSPAD
from kdcore_specdec.models import fspad as models

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)
COUNTS = [(7 * i) % VOCABULARY for i in range(VOCABULARY)]


@pytest.mark.parametrize("kept", [None, 8])
def test_features_are_regressed_and_tokens_distilled(kept: int | None) -> None:
    made = batch()
    given = signals(TARGET, made)
    found = draft(models.FSPAD, noise=0.0, draft_vocabulary=kept, token_counts=COUNTS)(made, given)
    totals = FSPAD(token_weight=0.3, chunk=4)(found, given, made)
    feature = smooth_l1_loss(found["feature"][:, 1:9], given["hidden"][:, 1:9], reduction="none").mean(-1).sum()
    p = given["logits"][:, 1:9][..., found["tokens"]].log_softmax(-1)
    q = found["logits"][:, 1:9][..., found["tokens"]].log_softmax(-1)
    assert totals["feature"].sum.item() == pytest.approx(feature.item(), rel=1e-4)
    assert totals["token"].sum.item() == pytest.approx(0.3 * (p.exp() * (p - q)).sum().item(), rel=1e-4)
    assert totals["feature"].count.item() == totals["token"].count.item() == 16


def test_the_tokens_count_a_tenth_unless_asked() -> None:
    made = batch()
    given = signals(TARGET, made)
    found = draft(models.FSPAD)(made, given)
    default, whole = FSPAD()(found, given, made), FSPAD(token_weight=1.0)(found, given, made)
    assert default["token"].sum.item() == pytest.approx(0.1 * whole["token"].sum.item())


def test_each_half_learns_from_its_own_term() -> None:
    made, net = batch(), draft(models.FSPAD)
    given = signals(TARGET, made)
    totals = FSPAD()(net(made, given), given, made)
    totals["token"].sum.backward(retain_graph=True)
    assert not net.layer.mlp.down_proj.weight.grad[WIDTH:].any()
    assert net.layer.mlp.down_proj.weight.grad[:WIDTH].any()
    net.zero_grad()
    totals["feature"].sum.backward()
    assert not net.layer.mlp.down_proj.weight.grad[:WIDTH].any()
    assert net.layer.mlp.down_proj.weight.grad[WIDTH:].any()


def test_a_weight_or_chunk_that_is_none_is_refused() -> None:
    with pytest.raises(
        ValueError, match="token_weight=-1 is negative: it is what the tokens count beside the features"
    ):
        FSPAD(token_weight=-1)
    with pytest.raises(ValueError, match="chunk=0 is no number of tokens from 1 on"):
        FSPAD(chunk=0)
