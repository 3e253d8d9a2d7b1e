from __future__ import annotations

import pytest
import torch
from made import llama
from torch import Tensor

from drafts import VOCABULARY, WIDTH, batch, draft, signals
from kdcore_specdec.losses.eagle import Eagle3
from kdcore_specdec.models.eagle import Eagle3 as Draft
from kdcore_specdec.models.medusa import Medusa

TARGET = llama(layers=3, vocabulary=VOCABULARY, width=WIDTH)
COUNTS = [(7 * i) % VOCABULARY for i in range(VOCABULARY)]


def naive(found: dict[str, Tensor], given: dict[str, Tensor], made: dict[str, Tensor], step: int) -> tuple[float, int]:
    """KL(target || draft) of one step, position by position, with plain softmaxes."""
    tokens, terms = found["tokens"], []
    segment = made.get("segment", torch.ones_like(made["input_ids"]))
    for n, t in torch.cartesian_prod(*(torch.arange(size) for size in segment.shape)).tolist():
        if t == 0 or t + step >= segment.shape[1] or made["labels"][n, t + step] == -100:
            continue
        if len(set(segment[n, t - 1 : t + step + 1].tolist())) > 1:
            continue
        p = (given["head"] @ given["hidden"][n, t + step])[tokens].softmax(0)
        q = (found["heads"][step] @ found["unrolled"][n, step, t]).softmax(0)
        terms.append((p * (p.log() - q.log())).sum().item())
    return sum(terms), len(terms)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kept", [None, 8])
def test_every_step_is_the_mean_divergence_of_the_tokens_it_is_about(packed: bool, kept: int | None) -> None:
    made = batch(t=12, packed=packed)
    given = signals(TARGET, made)
    found = draft(Draft, draft_vocabulary=kept, token_counts=COUNTS)(made, given)
    totals = Eagle3(decay=0.5, chunk=3)(found, given, made)
    assert list(totals) == ["step0", "step1", "step2"]
    for step in range(3):
        wanted, count = naive(found, given, made, step)
        assert totals[f"step{step}"].count.item() == count > 0
        assert totals[f"step{step}"].sum.item() == pytest.approx(0.5**step * wanted, rel=1e-4)


def test_no_step_is_worth_less_unless_asked() -> None:
    made = batch()
    given = signals(TARGET, made)
    found = draft(Draft)(made, given)
    even, default = Eagle3(decay=1.0)(found, given, made), Eagle3()(found, given, made)
    for step in range(3):
        assert default[f"step{step}"].sum.item() == pytest.approx(0.8**step * even[f"step{step}"].sum.item())


def test_a_draft_that_says_what_the_target_says_costs_nothing() -> None:
    made = batch()
    given = signals(TARGET, made)
    ahead = torch.zeros(2, 2, 10, WIDTH)
    ahead[:, 0], ahead[:, 1, :-1] = given["hidden"], given["hidden"][:, 1:]
    student = {
        "unrolled": ahead,
        "heads": given["head"].expand(2, -1, -1),
        "tokens": torch.arange(VOCABULARY),
        "predicts": torch.ones(2, 10, dtype=torch.bool),
    }
    totals = Eagle3()(student, given, made)
    assert all(total.sum.item() == pytest.approx(0.0, abs=1e-5) for total in totals.values())
    assert [total.count.item() for total in totals.values()] == [18, 16]


def test_the_draft_gets_gradients_and_the_target_none() -> None:
    made = batch()
    given = {name: one.detach().clone().requires_grad_() for name, one in signals(TARGET, made).items()}
    net = draft(Draft)
    totals = Eagle3()(net(made, given), given, made)
    sum(total.sum for total in totals.values()).backward()
    assert net.fc.weight.grad.any()
    assert net.lm_head.weight.grad is None
    assert given["head"].grad is None


def test_the_gradient_is_that_of_the_plain_form() -> None:
    made = batch()
    given = signals(TARGET, made)
    net = draft(Draft, steps=2)
    found = net(made, given)
    sum(total.sum for total in Eagle3(chunk=4)(found, given, made).values()).backward()
    chunked = net.fc.weight.grad.clone()
    net.zero_grad()
    found = net(made, given)
    plain = torch.zeros(())
    for step in range(2):
        q = (found["unrolled"][:, step, 1 : 9 - step] @ given["head"].T).log_softmax(-1)
        p = given["logits"][:, 1 + step : 9].log_softmax(-1)
        plain = plain + 0.8**step * (p.exp() * (p - q)).sum()
    plain.backward()
    torch.testing.assert_close(chunked, net.fc.weight.grad, atol=1e-5, rtol=1e-4)


def test_masked_tokens_do_not_count_and_may_hold_anything() -> None:
    made = batch()
    given = signals(TARGET, made)
    mask = torch.ones_like(made["labels"], dtype=torch.bool)
    mask[:, 4] = False
    found = draft(Draft, steps=1)(made, given)
    wanted = Eagle3()(found, given, {**made, "mask": mask})["step0"]
    broken = {**given, "hidden": given["hidden"].clone()}
    broken["hidden"][:, 4] = torch.nan
    total = Eagle3()(found, broken, {**made, "mask": mask})["step0"]
    assert total.count.item() == wanted.count.item() == 14
    torch.testing.assert_close(total.sum, wanted.sum)


def test_half_precision_is_summed_in_float32() -> None:
    made = batch()
    given = signals(TARGET, made)
    wide = Eagle3()(draft(Draft)(made, given), given, made)["step0"]
    narrow = Eagle3()(draft(Draft).to(torch.bfloat16)(made, given), given, made)["step0"]
    assert narrow.sum.dtype == torch.float32
    assert narrow.sum.item() == pytest.approx(wide.sum.item(), rel=0.05)


def test_the_heads_of_medusa_learn_what_the_target_says_further_on() -> None:
    made = batch()
    given = signals(TARGET, made)
    found = draft(Medusa)(made, given)
    totals = Eagle3(decay=1.0)(found, given, made)
    for head in range(3):
        wanted, count = naive(found, given, made, head)
        assert totals[f"step{head}"].sum.item() == pytest.approx(wanted, rel=1e-4)
        assert totals[f"step{head}"].count.item() == count


@pytest.mark.parametrize("decay", [0.0, 1.5, -1.0])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    said = rf"decay={decay} is not in \(0, 1\]: each step counts so much in comparison with the one before"
    with pytest.raises(ValueError, match=said):
        Eagle3(decay=decay)


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk=0 is no number of tokens from 1 on"):
        Eagle3(chunk=0)
