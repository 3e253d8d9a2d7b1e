from __future__ import annotations

import pytest
import torch
from made import llama

from drafts import VOCABULARY, WIDTH, batch, draft, signals
from kdcore_specdec.alignment import has_before
from kdcore_specdec.models.decoder import Memory
from kdcore_specdec.models.falcon import Falcon, block_mask
from kdcore_specdec.models.feature import row_positions

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)


def test_blocks_are_free_within_and_see_all_blocks_before() -> None:
    ids = torch.zeros(1, 6, dtype=torch.int64)
    mask = block_mask(row_positions({"input_ids": ids}), None, has_before(ids, None), 2)[0, 0].int()
    assert mask.tolist() == [
        [1, 0, 0, 0, 0, 0],  # no feature: itself only
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 1, 1],
    ]


def test_blocks_start_anew_with_each_document() -> None:
    made = batch(n=1, packed=True)
    segment, ids = made["segment"], made["input_ids"]
    mask = block_mask(row_positions(made), segment, has_before(ids, segment), 2)[0, 0].int()
    assert mask[5:8, :8].tolist() == [[0, 0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1, 1]]


def test_a_row_predicts_k_positions_further_on_from_its_block() -> None:
    """Each block's outputs, from the layer alone on the LSTM's rows up to the block's end."""
    made = batch(n=1, t=10)
    given = signals(TARGET, made)
    net = draft(Falcon, block=3).eval()
    found = net(made, given)
    rows, _ = net.over_time(made["input_ids"][:, 1:], given["hidden"][:, :-1])
    for start in (0, 3, 6):
        block = rows[:, : start + 3]
        (out,) = net.layer(block, torch.arange(start + 3)[None], Memory(), mask=None, step=False)
        # row r holds token r + 1 and the hidden state at r; it predicts the one at r + 3
        for r in range(start, start + 3):
            if r + 3 < 10:
                torch.testing.assert_close(found["hidden"][0, r + 3], out[0, r], atol=1e-5, rtol=1e-5)


def test_it_predicts_from_k_tokens_into_a_document_on() -> None:
    made = batch(n=1, packed=True)
    found = draft(Falcon, block=3)(made, signals(TARGET, made))
    assert found["predicts"][0].nonzero()[:, 0].tolist() == [3, 7]


def test_the_lstm_is_torchs_own_until_it_is_told_to_forget() -> None:
    net, ids, felt = draft(Falcon), batch()["input_ids"], torch.randn(2, 10, WIDTH)
    plain = torch.nn.LSTM(2 * WIDTH, WIDTH, num_layers=2, batch_first=True)
    with torch.no_grad():
        for i, own in enumerate(net.lstm):
            getattr(plain, f"weight_ih_l{i}").copy_(own.weight_ih_l0[:, :-1])
            for name in ("weight_hh", "bias_ih", "bias_hh"):
                getattr(plain, f"{name}_l{i}").copy_(getattr(own, f"{name}_l0"))
    wanted, _ = plain(torch.cat([net.embed_tokens(ids), felt], -1))
    found, _ = net.over_time(ids, felt)
    torch.testing.assert_close(found, wanted)


def test_a_row_that_forgets_is_zero_and_the_next_one_starts_anew() -> None:
    net, ids, felt = draft(Falcon), batch()["input_ids"], torch.randn(2, 10, WIDTH)
    forget = torch.zeros(2, 10, dtype=torch.bool)
    forget[:, 4] = True
    found, _ = net.over_time(ids, felt, forget=forget)
    anew, _ = net.over_time(ids[:, 5:], felt[:, 5:])
    assert not found[:, 4].any()
    torch.testing.assert_close(found[:, 5:], anew)
    torch.testing.assert_close(found[:, :4], net.over_time(ids[:, :4], felt[:, :4])[0])


def test_nothing_is_ever_learnt_about_forgetting() -> None:
    made, net = batch(packed=True), draft(Falcon)
    net(made, signals(TARGET, made))["hidden"].square().sum().backward()
    for lstm in net.lstm:
        assert not lstm.weight_ih_l0.grad[:, -1].any()
        assert lstm.weight_ih_l0.grad[:, :-1].any()


def test_a_glance_puts_the_pair_that_is_to_be_predicted_in_place_of_a_rows_own() -> None:
    made = batch(n=1)
    given = signals(TARGET, made)
    net = draft(Falcon, block=2).eval()
    shown = torch.zeros_like(made["input_ids"], dtype=torch.bool)
    shown[0, 3] = True
    glancing = net({**made, "glance": shown}, given)
    read, felt = made["input_ids"].clone(), torch.cat([torch.zeros(1, 1, WIDTH), given["hidden"][:, :-1]], 1)
    read[0, 3], felt[0, 3] = made["input_ids"][0, 5], given["hidden"][0, 4]  # at row 5: token 5 and hidden state 4
    by_hand = net({"input_ids": read}, {"hidden": torch.cat([felt[:, 1:], felt[:, :1]], 1)})
    torch.testing.assert_close(glancing["hidden"], by_hand["hidden"])
    assert not torch.allclose(glancing["hidden"], net(made, given)["hidden"])


def test_a_glance_at_nothing_changes_nothing() -> None:
    made = batch()
    given = signals(TARGET, made)
    net = draft(Falcon)
    none = torch.zeros_like(made["input_ids"], dtype=torch.bool)
    assert torch.equal(net({**made, "glance": none}, given)["hidden"], net(made, given)["hidden"])


def test_a_block_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="block=1: a semi-autoregressive draft gives 2 tokens at once, or more"):
        draft(Falcon, block=1)
