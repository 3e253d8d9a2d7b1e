from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdcore.errors import RunError
from kdcore.running import Running, not_finite

CPU = torch.device("cpu")


def add(running: Running, *sums: float, count: int = 1, ranks: int = 1) -> None:
    """One step of losses called a, b, ..., each with the same count."""
    running.add("abc"[: len(sums)], torch.tensor(sums), torch.full((len(sums),), count), ranks)


def test_the_mean_of_each_since_the_last_flush() -> None:
    running = Running()
    running.start(CPU)
    assert running.means() == {}
    add(running, 1.0, 10.0)
    add(running, 3.0, 20.0)
    assert {name: float(value) for name, value in running.means().items()} == {"a": 2.0, "b": 15.0}
    assert running.total() == 17.0
    assert running.flush() == {"a": 2.0, "b": 15.0}
    assert running.steps == 0
    assert running.total() == 17.0  # what the bar shows right after a log point
    assert {name: float(value) for name, value in running.means().items()} == {"a": 0.0, "b": 0.0}
    add(running, 5.0, 5.0)
    assert running.total() == 10.0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_told_on_the_same_tensor_until_the_flush(wrong: float) -> None:
    running = Running()
    running.start(CPU)
    gate = running.bad
    add(running, 1.0, 1.0)
    assert float(gate) == 0
    add(running, 1.0, wrong)
    assert float(gate) == 1
    add(running, 1.0, 1.0)
    assert float(gate) == 1
    assert running.bad is gate
    assert not_finite(running.flush()) == ["b"]
    assert float(gate) == 0


def test_other_losses_than_before_are_refused() -> None:
    running = Running()
    add(running, 1.0, 1.0)
    with pytest.raises(RunError, match=r"gave 1 values in this step \(a\) and 2 before \(a, b\)"):
        add(running, 1.0)


def test_its_state_is_plain_and_goes_on_exactly() -> None:
    one, other = Running(), Running()
    add(one, 0.1)
    add(one, 0.7)
    state = one.state_dict()
    add(one, 0.9)
    other.load_state_dict(state)
    other.start(CPU)
    add(other, 0.9)
    assert other.flush() == one.flush()
    assert {type(value) for value in state.values()} == {list, int, Tensor}


def test_a_mean_is_that_of_all_terms_not_of_the_steps() -> None:
    running = Running()
    running.start(CPU)
    running.add(["a", "b"], torch.tensor([6.0, 0.0]), torch.tensor([3, 0]))
    running.add(["a", "b"], torch.tensor([10.0, 0.0]), torch.tensor([1, 0]))
    running.add(["a", "b"], torch.tensor([0.0, 0.0]), torch.tensor([0, 0]))  # nothing was selected
    assert {name: float(value) for name, value in running.means().items()} == {"a": 4.0, "b": 0.0}
    assert running.total() == 4.0
    assert running.flush() == {"a": 4.0, "b": 0.0}
    add(running, 6.0, 6.0, count=2)
    assert running.flush() == {"a": 3.0, "b": 3.0}


def test_counts_are_exact_beyond_float32() -> None:
    running = Running()
    for _ in range(3):
        running.add(["a"], torch.tensor([1.0]), torch.tensor([2**24 + 1]))
    assert running.state_dict()["counts"].tolist() == [3 * 2**24 + 3]


def test_what_a_step_gives_is_not_changed() -> None:
    running, sums, counts = Running(), torch.tensor([2.0]), torch.tensor([4])
    running.add(["a"], sums, counts)
    running.add(["a"], sums, counts)
    running.flush()
    assert (sums.tolist(), counts.tolist()) == ([2.0], [4])


def test_ranks_weigh_by_their_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running()
    add(running, 6.0, count=3)

    def other(tensor: Tensor) -> None:
        """The other rank has a sum of 10 over 1 term."""
        tensor.add_(10 if tensor.is_floating_point() else 1)

    monkeypatch.setattr(torch.distributed, "all_reduce", other)
    assert running.flush(ranks=2) == {"a": 4.0}


def test_sums_are_float32_whatever_the_default_type_is() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        running = Running()
        for _ in range(1000):
            running.add(["a"], torch.ones(1, dtype=torch.bfloat16), torch.tensor([1]))
        assert running.flush() == {"a": 1.0}
    finally:
        torch.set_default_dtype(torch.float32)
