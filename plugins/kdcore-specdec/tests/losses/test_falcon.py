from __future__ import annotations

from typing import Any

import pytest
import torch
from made import llama
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from drafts import VOCABULARY, WIDTH, batch, draft, signals
from kdcore.errors import RunError
from kdcore_specdec.losses import falcon
from kdcore_specdec.losses.falcon import Falcon, choose
from kdcore_specdec.models.eagle import Eagle3
from kdcore_specdec.models.falcon import Falcon as Draft

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)


def loss_for(net: Draft, **keywords: Any) -> Falcon:
    loss = Falcon(**keywords)
    loss.setup({}, {}, lambda role: net)
    return loss


def chosen(t: int = 40, *, wrong: int = 12, ratio: float = 0.5, block: int = 3, n: int = 200) -> Tensor:
    positions = torch.arange(t).expand(n, t) - 1
    selected = (positions >= block - 1).contiguous()
    torch.manual_seed(0)
    return choose(positions, selected, torch.full((n,), wrong), ratio, block)


@pytest.mark.parametrize("block", [2, 3, 4])
def test_about_a_share_of_the_wrong_tokens_is_shown(block: int) -> None:
    shown = chosen(block=block).sum(1).float()
    assert shown.mean().item() == pytest.approx(6.0, abs=0.8)


@pytest.mark.parametrize("block", [2, 3, 4])
def test_what_is_shown_is_the_start_of_a_block_and_never_all_of_it(block: int) -> None:
    for row in chosen(block=block):
        in_blocks = row[1 : 1 + block * (39 // block)].view(-1, block).int()
        assert not in_blocks[:, -1].any()
        assert (in_blocks.diff(dim=1) <= 0).all()  # a row is shown only if the one before it is
    lengths = chosen(block=4)[:, 1:37].reshape(-1, 4).sum(1)
    assert set(lengths.tolist()) == {0, 1, 2, 3}


def test_other_blocks_are_shown_each_time() -> None:
    shown = chosen(block=2, wrong=6)
    assert shown.any(0)[1:39:2].all()


def test_nothing_is_shown_where_all_is_right_or_nothing_to_be_said() -> None:
    assert not chosen(wrong=0).any()
    assert not chosen(ratio=0.0).any()
    positions = torch.arange(8)[None] - 1
    none = torch.zeros(1, 8, dtype=torch.bool)
    assert not choose(positions, none, torch.tensor([8]), 1.0, 2).any()


def test_rows_are_shown_within_their_documents_blocks() -> None:
    positions = torch.tensor([[-1, 0, 1, 2, 3, -1, 0, 1, 2, 3]])
    shown = choose(positions, positions >= 1, torch.tensor([20]), 1.0, 2)
    assert shown[0].nonzero()[:, 0].tolist() == [1, 3, 6, 8]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The same two rows of blocks of 3, whatever is drawn."""
    at = torch.zeros(2, 10, dtype=torch.bool)
    at[:, [1, 2, 4]] = True
    monkeypatch.setattr(falcon, "choose", lambda *given: at)
    return at


def test_the_second_pass_is_what_counts(shown: Tensor) -> None:
    made = batch()
    given = signals(TARGET, made)
    net = draft(Draft)
    first = net(made, given)
    totals = loss_for(net, token_weight=0.5, soft=0.8)(first, given, made)
    second = net({**made, "glance": shown}, given)
    at = slice(3, 9)  # a block of 3 has nothing to say about the first three
    feature = smooth_l1_loss(second["hidden"][:, at], given["hidden"][:, at], reduction="none").mean(-1).sum()
    p, q = (one["logits"][:, at].log_softmax(-1) for one in (given, second))
    soft = (p.exp() * (p - q)).sum()
    hard = cross_entropy(second["logits"][:, at].flatten(0, 1), p.argmax(-1).flatten(), reduction="sum")
    assert totals["feature"].sum.item() == pytest.approx(feature.item(), rel=1e-4)
    assert totals["soft"].sum.item() == pytest.approx(0.5 * 0.8 * soft.item(), rel=1e-4)
    assert totals["hard"].sum.item() == pytest.approx(0.5 * 0.2 * hard.item(), rel=1e-4)
    assert {total.count.item() for total in totals.values()} == {12}


def test_the_wrong_tokens_of_each_row_decide_how_much_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    made, told = batch(), []
    given = signals(TARGET, made)
    net = draft(Draft)
    first = net(made, given)

    def note(positions: Tensor, selected: Tensor, wrong: Tensor, ratio: float, block: int) -> Tensor:
        told.append((wrong, ratio, block))
        return torch.zeros_like(selected)

    monkeypatch.setattr(falcon, "choose", note)
    loss_for(net, ratio=0.25, chunk=3)(first, given, made)
    differ = first["logits"].argmax(-1) != given["logits"].argmax(-1)
    wrong, ratio, block = told[0]
    assert wrong.tolist() == differ[:, 3:9].sum(1).tolist()
    assert (ratio, block) == (0.25, 3)


def test_the_ratio_may_be_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    made, net, told = batch(), draft(Draft), []
    given = signals(TARGET, made)

    def note(positions: Tensor, selected: Tensor, wrong: Tensor, ratio: float, block: int) -> Tensor:
        told.append(ratio)
        return torch.zeros_like(selected)

    monkeypatch.setattr(falcon, "choose", note)
    loss = loss_for(net, ratio=lambda progress: 0.7 + progress)
    loss(net(made, given), given, made)
    assert told == [0.7]


def test_the_draft_learns_from_the_second_pass_only(shown: Tensor) -> None:
    made, net = batch(), draft(Draft)
    given = signals(TARGET, made)
    first = {name: one.detach().requires_grad_(one.is_floating_point()) for name, one in net(made, given).items()}
    totals = loss_for(net)(first, given, made)
    sum(total.sum for total in totals.values()).backward()
    assert net.lstm[0].weight_ih_l0.grad.any()
    assert net.layer.mlp.down_proj.weight.grad.any()
    assert first["hidden"].grad is None
    assert net.lm_head.weight.grad is None


def test_a_small_vocabulary_is_counted_in_its_own_ids(shown: Tensor) -> None:
    made = batch()
    given = signals(TARGET, made)
    net = draft(Draft, draft_vocabulary=8, token_counts=[(7 * i) % VOCABULARY for i in range(VOCABULARY)])
    totals = loss_for(net)(net(made, given), given, made)
    second = net({**made, "glance": shown}, given)
    kept, at = second["tokens"], slice(3, 9)
    labels = given["logits"][:, at][..., kept].argmax(-1)
    hard = cross_entropy(second["logits"][:, at][..., kept].flatten(0, 1), labels.flatten(), reduction="sum")
    assert totals["hard"].sum.item() == pytest.approx(0.01 * hard.item(), rel=1e-4)


def test_another_kind_of_draft_is_refused() -> None:
    said = "specdec.falcon trains a draft that gives blocks of tokens: use `specdec.falcon` as its model, which is a "
    with pytest.raises(RunError, match=said):
        Falcon().setup({}, {}, lambda role: draft(Eagle3))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ratio": 1.5}, "ratio=1.5 is no share: give 0 to 1, or a schedule"),
        ({"token_weight": -1.0}, "token_weight=-1.0 must not be negative, and soft=0.9 be from 0 to 1"),
        ({"soft": 2.0}, "token_weight=0.1 must not be negative, and soft=2.0 be from 0 to 1"),
        ({"chunk": 0}, "chunk=0 is no number of tokens from 1 on"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Falcon(**wrong)
