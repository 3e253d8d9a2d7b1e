"""How two answers of a loss are compared."""

from __future__ import annotations

import math

import pytest
import torch

from kdcore.losses.base import Total
from kdcore.testing.answer import Answer, apart, close, difference, names_of


def answer(value: float = 2.0, count: int = 4, gradient: list[float] | None = None, name: str = "") -> Answer:
    total = Total(torch.tensor(value), torch.tensor(count))
    return Answer({name: total}, {"student.logits": torch.tensor(gradient or [3.0, 4.0])})


def test_equal_answers_do_not_differ():
    assert difference(answer(), answer()) == ""
    assert difference(answer(2.0001), answer()) == ""


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (answer(2.001), "its sum is 2.001 instead of 2"),
        (answer(math.nan), "its sum is nan instead of 2"),
        (answer(count=3), "its count is 3 instead of 4"),
        (answer(name="far"), "its totals are `far` instead of one without a name"),
        (answer(gradient=[3.0, 4.1]), "its gradient at `student.logits` is off by 0.1, where 5 is its length"),
        (answer(gradient=[3.0, math.inf]), "its gradient at `student.logits` is not finite"),
    ],
)
def test_what_differs_is_said(found: Answer, said: str):
    assert difference(found, answer()) == said


def test_gradients_at_parts_of_the_loss_are_compared_too():
    totals = answer().totals
    one, other = (Answer(totals, {}, {"loss.map.weight": torch.tensor([x])}) for x in (1.0, 2.0))
    assert difference(one, one) == ""
    assert difference(one, other) == "its gradient at `loss.map.weight` is off by 1, where 2 is its length"


def test_a_part_is_named():
    assert difference(answer(3.0, name="far"), answer(name="far")) == "its sum of `far` is 3 instead of 2"


def test_half_precision_gradients_may_be_rounded_once():
    known = torch.tensor([1.0, 1.0])
    near = torch.tensor([1.004, 1.0])
    assert apart(near, known) == "is off by 0.004, where 1.41 is its length"
    assert apart(near.bfloat16(), known) == ""


def test_many_terms_may_be_rounded_more():
    assert not close(1e-4, 0.0, 1)
    assert close(1e-4, 0.0, 1000)


def test_the_value_is_what_the_core_makes_of_it():
    totals = {"a": Total(torch.tensor(6.0), torch.tensor(3)), "b": Total(torch.tensor(0.0), torch.tensor(0))}
    assert Answer(totals, {}).value == 2.0
    assert names_of(totals) == "`a`, `b`"
