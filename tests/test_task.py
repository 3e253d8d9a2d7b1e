"""The contract of a task, and the normalisation that every task shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kdcore.task import Task, normalise, set_input_statistics


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("signals", (nn.Identity(), {}, {})),
        ("observe", ({}, {}, {})),
        ("example", (1,)),
        ("deploy", (nn.Identity(),)),
    ],
)
def test_what_a_task_must_implement_is_named(method: str, arguments: tuple[Any, ...]) -> None:
    class Half(Task):
        """A task that is not finished."""

    with pytest.raises(NotImplementedError, match=rf"Half does not implement {method}\("):
        getattr(Half(), method)(*arguments)


def test_what_a_task_may_leave_as_it_is() -> None:
    task, batch = Task(), {"id": torch.arange(2)}
    assert task.prepare(batch, lambda _: nn.Identity()) is batch
    assert task.chance() is None
    assert (task.primary, task.class_axis, task.fact_names) == (("accuracy", "max"), -1, ())


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 6), (4, 3, 5, 6, 2)])
@pytest.mark.parametrize(
    ("mean", "std"), [([0.1, 0.2, 0.3], [1.0, 2.0, 4.0]), ([0.5], [0.25]), ([0.5], None), (None, [2.0]), (None, None)]
)
def test_normalisation_is_by_channel(shape: tuple[int, ...], mean: list[float] | None, std: list[float] | None) -> None:
    net = nn.Identity()
    set_input_statistics(net, mean, std)
    x = torch.rand(shape)
    result = normalise(net, x)
    for channel in range(3):
        expected = x[:, channel] - (mean[channel % len(mean)] if mean else 0)
        expected = expected / (std[channel % len(std)] if std else 1)
        torch.testing.assert_close(result[:, channel], expected)


def test_a_net_without_statistics_is_given_its_input_untouched() -> None:
    x = torch.rand(2, 3)
    assert normalise(nn.Identity(), x) is x


def test_statistics_move_with_the_net_and_stay_out_of_its_weights() -> None:
    net = nn.Linear(2, 2)
    set_input_statistics(net, [0.5], [0.5])
    assert set(net.state_dict()) == {"weight", "bias"}
    net.double()
    assert normalise(net, torch.ones(1, 2, dtype=torch.float64)).dtype == torch.float64


def test_new_statistics_replace_the_old() -> None:
    net = nn.Identity()
    set_input_statistics(net, [0.5], [0.5])
    set_input_statistics(net, [1.0], None)
    assert normalise(net, torch.full((1, 1), 3.0)).item() == 2.0
