"""Predictions that the tests of the metrics share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


@pytest.fixture
def logits() -> Tensor:
    """(N, C) = (200, 6)."""
    return 2 * torch.randn(200, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def teacher(logits: Tensor) -> Tensor:
    """Near the student, so that they often agree."""
    return logits + torch.randn(200, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def labels(logits: Tensor) -> Tensor:
    """Right for about half of the logits; every seventh is -100."""
    guesses = torch.randint(0, 6, (200,), generator=torch.Generator().manual_seed(3))
    made = torch.where(torch.arange(200) % 2 == 0, logits.argmax(-1), guesses)
    made[::7] = -100
    return made
