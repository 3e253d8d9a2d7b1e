"""Maps that the tests of the losses share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kdcore.losses.base import Loss, Total
from torch import Tensor

Run = Callable[..., Total]


@pytest.fixture
def run() -> Run:
    """Calls a loss with maps of one name, and insists on the contract of its total."""

    def call(loss: Loss, student: Tensor, teacher: Tensor, batch: dict[str, Any] | None = None, **more: Any) -> Total:
        total = loss({loss.signal: student, **more}, {loss.signal: teacher}, batch or {})
        assert isinstance(total, Total)
        assert (total.sum.dtype, total.count.dtype) == (torch.float32, torch.int64)
        assert total.sum.shape == total.count.shape == ()
        return total

    return call


@pytest.fixture
def student() -> Tensor:
    """A map (N, C, H, W) = (3, 5, 4, 6)."""
    return 2 * torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def teacher() -> Tensor:
    return 2 * torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def labels() -> Tensor:
    """(N, H, W) of five classes; the first sample has two classes, class 4 is nowhere, some have none."""
    made = torch.randint(0, 4, (3, 4, 6), generator=torch.Generator().manual_seed(3))
    made[0] %= 2
    made[0, 0, :2] = made[2, 3] = -100
    return made


@pytest.fixture
def mask() -> Tensor:
    """(N, H, W): all of the first sample, a part of the second, nothing of the third."""
    made = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(4)) > 0.4
    made[0], made[2] = True, False
    return made
