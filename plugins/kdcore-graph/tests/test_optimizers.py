from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kdcore_graph.optimizers import adam


def test_it_is_adam_with_decay_in_the_gradient() -> None:
    one, other = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    ours = adam([{"params": [one]}], lr=0.1, weight_decay=0.5)
    plain = torch.optim.Adam([other], lr=0.1)
    for _ in range(3):
        one.grad = torch.tensor([0.3, 0.1])
        other.grad = torch.tensor([0.3, 0.1]) + 0.5 * other.detach()
        ours.step()
        plain.step()
    assert torch.allclose(one, other)


def test_groups_go_first() -> None:
    p = torch.nn.Parameter(torch.zeros(1))
    assert adam([{"params": [p], "lr": 0.7}]).param_groups[0]["lr"] == 0.7


def test_inner_steps_are_so_many_updates() -> None:
    def trained(inner: int, outer: int) -> torch.Tensor:
        p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = adam([{"params": [p]}], lr=0.1, inner_steps=inner)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (p - 3).square().sum()
            loss.backward()
            return loss

        for _ in range(outer):
            optimizer.step(closure)
        return p.detach()

    assert torch.equal(trained(5, 2), trained(1, 10))
    assert not torch.equal(trained(5, 2), trained(1, 2))


def test_an_update_that_is_gated_is_skipped() -> None:
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = adam([{"params": [p]}], inner_steps=3)
    assert optimizer._step_supports_amp_scaling  # what the core looks for  # type: ignore[attr-defined]
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    p.grad = torch.ones(1)
    optimizer.step()
    assert float(p.detach()) == 1


def test_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="inner_steps=0: give at least 1"):
        adam([], inner_steps=0)


def test_from_the_second_update_on_the_shorter_way_is_asked_where_there_is_one() -> None:
    asked: list[str] = []
    p = torch.nn.Parameter(torch.tensor([1.0]))

    def way(name: str) -> Callable[[], torch.Tensor]:
        def closure() -> torch.Tensor:
            asked.append(name)
            p.grad = torch.ones(1)
            return torch.zeros(())

        return closure

    optimizer = adam([{"params": [p]}], inner_steps=3)
    optimizer.step(way("long"))
    optimizer.again = way("short")  # type: ignore[attr-defined]
    optimizer.step(way("long"))
    assert asked == ["long"] * 4 + ["short"] * 2
