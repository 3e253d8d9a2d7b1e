"""Which parts of a net run on their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdcore.testing import samples
from kdcore.testing.calls import calls_around

X = torch.zeros(2, samples.WIDTH)


def test_a_call_of_the_whole_is_one_call():
    net = samples.vector_net()
    with calls_around(net) as seen:
        net(X)
        net(X)
    assert (seen.calls, seen.outside) == (2, [])


def test_a_part_that_runs_alone_is_named():
    net = samples.vector_net()
    with calls_around(net) as seen:
        net(X)
        net.get_submodule("0")(X)
    assert (seen.calls, seen.outside) == (1, ["0"])


def test_forward_alone_is_no_call():
    net = samples.vector_net()
    with calls_around(net) as seen:
        net.forward(X)
    assert (seen.calls, seen.outside) == (0, ["0", "1", "2"])


def test_a_call_that_fails_ends_too():
    net = samples.vector_net()
    with calls_around(net) as seen:
        with pytest.raises(RuntimeError):
            net(torch.zeros(2, 99))
        net.get_submodule("0")(X)
    assert seen.outside == ["0"]


def test_nothing_is_left_on_the_net():
    net = nn.Sequential(nn.Linear(1, 1))
    with calls_around(net):
        pass
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in net.modules())
