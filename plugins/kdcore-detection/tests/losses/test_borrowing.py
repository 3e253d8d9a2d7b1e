"""Modules that a loss has for the time of a stage."""

from __future__ import annotations

import copy

import pytest
from torch import nn

from kdcore_detection.losses.borrowing import Borrowing


class Reads(Borrowing[nn.Linear]):
    """Stands for such a loss."""

    def take(self, *parts: nn.Linear) -> Reads:
        self._borrowed = parts
        return self


def test_what_is_borrowed_is_no_part_of_the_loss():
    part = nn.Linear(2, 2)
    loss = Reads().take(part)
    assert loss.borrowed() == (part,)
    assert list(loss.modules()) == [loss]
    assert not loss.state_dict()
    loss.eval()
    assert part.training


def test_it_is_let_go_by_one_and_kept_by_another():
    parts = nn.Linear(2, 2), nn.Linear(2, 2)
    one, other = Reads().take(parts[0]), Reads().take(*parts)
    one.close()
    assert other.borrowed() == parts
    with pytest.raises(ValueError, match=r"Reads finds its nets in setup\(\), which was not called"):
        one.borrowed()


def test_a_copy_of_loss_and_part_keeps_them_together():
    part = nn.Linear(2, 2)
    again = copy.deepcopy({"loss": Reads().take(part), "part": part})
    assert again["loss"].borrowed() == (again["part"],)
