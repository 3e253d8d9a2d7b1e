from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdcore.errors import RunError
from kdcore.running import Running, not_finite

CPU = torch.device("cpu")


def means(*values: float) -> Tensor:
    return torch.tensor(values)


def test_the_mean_of_each_since_the_last_flush() -> None:
    running = Running()
    running.start(CPU)
    assert running.means() == {}
    running.add(["a", "b"], means(1.0, 10.0))
    running.add(["a", "b"], means(3.0, 20.0))
    assert {name: float(value) for name, value in running.means().items()} == {"a": 2.0, "b": 15.0}
    assert running.total() == 17.0
    assert running.flush() == {"a": 2.0, "b": 15.0}
    assert running.steps == 0
    assert running.total() == 17.0  # what the bar shows right after a log point
    assert {name: float(value) for name, value in running.means().items()} == {"a": 0.0, "b": 0.0}
    running.add(["a", "b"], means(5.0, 5.0))
    assert running.total() == 10.0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_told_on_the_same_tensor_until_the_flush(wrong: float) -> None:
    running = Running()
    running.start(CPU)
    gate = running.bad
    running.add(["a", "b"], means(1.0, 1.0))
    assert float(gate) == 0
    running.add(["a", "b"], means(1.0, wrong))
    assert float(gate) == 1
    running.add(["a", "b"], means(1.0, 1.0))
    assert float(gate) == 1
    assert running.bad is gate
    assert not_finite(running.flush()) == ["b"]
    assert float(gate) == 0


def test_other_losses_than_before_are_refused() -> None:
    running = Running()
    running.add(["a", "b"], means(1.0, 1.0))
    with pytest.raises(RunError, match=r"gave 1 values in this step \(a\) and 2 before \(a, b\)"):
        running.add(["a"], means(1.0))


def test_its_state_is_plain_and_goes_on_exactly() -> None:
    one, other = Running(), Running()
    one.add(["a"], means(0.1))
    one.add(["a"], means(0.7))
    state = one.state_dict()
    one.add(["a"], means(0.9))
    other.load_state_dict(state)
    other.start(CPU)
    other.add(["a"], means(0.9))
    assert other.flush() == one.flush()
    assert {type(value) for value in state.values()} == {list, int, Tensor}


def test_sums_are_float32_whatever_the_default_type_is() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        running = Running()
        for _ in range(1000):
            running.add(["a"], torch.ones(1, dtype=torch.bfloat16))
        assert running.flush() == {"a": 1.0}
    finally:
        torch.set_default_dtype(torch.float32)
