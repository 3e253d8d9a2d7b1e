from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdcore_specdec.metrics.acceptance import ExpectedAcceptance


def logits(*probabilities: list[float]) -> dict[str, Tensor]:
    return {"logits": torch.tensor([probabilities]).log()}


LABELS = torch.tensor([[0, 1]])
DRAFT = logits([0.5, 0.25, 0.25], [0.1, 0.9, 0.0])
TARGET = logits([0.25, 0.25, 0.5], [0.1, 0.4, 0.5])


def value(*batches: tuple[dict[str, Tensor], dict[str, Tensor] | None, Tensor], **given: int) -> float:
    metric = ExpectedAcceptance(**given)
    for batch in batches:
        metric.update(*batch)
    return float(metric.compute())


def test_by_hand() -> None:
    # what both agree on: min(0.5, 0.25) + 0.25 + 0.25 = 0.75, and 0.1 + 0.4 + 0 = 0.5
    assert value((DRAFT, TARGET, LABELS)) == pytest.approx((0.75 + 0.5) / 2)
    assert value((DRAFT, TARGET, torch.tensor([[0, -100]]))) == pytest.approx(0.75)
    assert value((TARGET, TARGET, LABELS)) == pytest.approx(1.0)


def test_without_a_target_the_next_token_stands_for_it() -> None:
    assert value((DRAFT, None, LABELS)) == pytest.approx((0.5 + 0.9) / 2)


def test_it_is_the_rate_at_which_speculative_sampling_accepts() -> None:
    generator = torch.Generator().manual_seed(0)
    q, p = (signals["logits"][0, 0].exp() for signals in (DRAFT, TARGET))
    drawn = torch.multinomial(q, 50_000, replacement=True, generator=generator)
    taken = torch.rand(50_000, generator=generator) < (p / q)[drawn]
    assert value((DRAFT, TARGET, torch.tensor([[0, -100]]))) == pytest.approx(float(taken.float().mean()), abs=0.01)


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_hidden_states_give_what_their_logits_give(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for name, width in (("draft", 3), ("target", 5)):
        hidden, head = torch.randn(2, 4, width, generator=generator), torch.randn(7, width, generator=generator)
        parts[name] = {"hidden": hidden, "head": head}, {"logits": hidden @ head.T}
    labels = torch.tensor([[1, 2, -100, 3], [-100, -100, 0, 6]])
    whole = value((parts["draft"][1], parts["target"][1], labels))
    assert value((parts["draft"][0], parts["target"][0], labels), chunk=chunk) == pytest.approx(whole, abs=1e-6)
    assert value((parts["draft"][0], parts["target"][1], labels), chunk=chunk) == pytest.approx(whole, abs=1e-6)


def test_every_token_weighs_the_same_over_batches() -> None:
    one, other = (DRAFT, TARGET, torch.tensor([[0, -100]])), (DRAFT, TARGET, LABELS)
    assert value(one, other) == pytest.approx((0.75 + 0.75 + 0.5) / 3)


def test_rows_one_by_one() -> None:
    draft, target = ({"logits": torch.cat([one["logits"]] * 3)} for one in (DRAFT, TARGET))
    labels = torch.tensor([[0, 1], [-100, 1], [-100, -100]])
    scores = ExpectedAcceptance().scores(draft, target, labels)
    assert scores.tolist() == pytest.approx([0.625, 0.5, 0.0])


def test_nothing_seen_and_numbers_gone_wrong() -> None:
    assert torch.isnan(ExpectedAcceptance().compute())
    assert torch.tensor(value((DRAFT, TARGET, torch.full((1, 2), -100)))).isnan()
    broken = {"logits": torch.full((1, 2, 3), torch.nan)}
    assert torch.tensor(value((broken, TARGET, LABELS))).isnan()


def test_a_class_that_a_draft_does_not_know() -> None:
    narrow = {"logits": torch.tensor([[[0.0, -torch.inf, -torch.inf]] * 2])}
    assert value((narrow, TARGET, LABELS)) == pytest.approx((0.25 + 0.1) / 2)


def test_what_is_refused() -> None:
    small = {"hidden": torch.zeros(1, 2, 4), "head": torch.zeros(2, 4)}
    with pytest.raises(
        ValueError, match=r"the draft tells 2 tokens apart and the target 3: what is accepted of a draft"
    ):
        value((small, TARGET, LABELS))
    with pytest.raises(ValueError, match="chunk=0 is no number of tokens from 1 on"):
        ExpectedAcceptance(chunk=0)


def test_half_precision_is_computed_in_full() -> None:
    half = tuple({"logits": one["logits"].bfloat16()} for one in (DRAFT, TARGET))
    assert value((*half, LABELS)) == pytest.approx(0.625, abs=0.01)
