"""Signals that the tests of the losses share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdcore.losses.base import Loss, Total
from kdcore.losses.cosine import Cosine
from kdcore.losses.cross_entropy import CrossEntropy
from kdcore.losses.divergence import Divergence
from kdcore.losses.kl import KL
from kdcore.losses.regression import MSE, SmoothL1

MADE = {
    "cross_entropy": CrossEntropy,
    "cross_entropy-smoothed": lambda: CrossEntropy(label_smoothing=0.1),
    "kl": KL,
    "kl-T4": lambda: KL(temperature=4.0),
    "forward_kl": lambda: Divergence(kind="forward_kl"),
    "reverse_kl": lambda: Divergence(kind="reverse_kl", temperature=2.0),
    "jsd": Divergence,
    "jsd-0.9": lambda: Divergence(beta=0.9),
    "tvd": lambda: Divergence(kind="tvd"),
    "mse": MSE,
    "smooth_l1": SmoothL1,
    "l1": lambda: SmoothL1(beta=0.0),
    "cosine": Cosine,
}
"""Every loss of the core that takes logits, in each of its forms."""


@pytest.fixture(params=MADE)
def loss(request: pytest.FixtureRequest) -> Loss:
    made: Loss = MADE[request.param]()
    return made


@pytest.fixture(params=[n for n in MADE if "cross_entropy" not in n])
def paired_loss(request: pytest.FixtureRequest) -> Loss:
    """A loss that compares a student with a teacher."""
    made: Loss = MADE[request.param]()
    return made


@pytest.fixture
def student() -> Tensor:
    """Logits (N, T, C) = (4, 5, 7) of a student."""
    return 2 * torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def teacher() -> Tensor:
    return 2 * torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def labels() -> Tensor:
    """(N, T), two of them -100."""
    made = torch.randint(0, 7, (4, 5), generator=torch.Generator().manual_seed(3))
    made[0, 1] = made[3, 3] = -100
    return made


@pytest.fixture
def mask() -> Tensor:
    """(N, T), ragged: 2, 5, 0 and 4 positions."""
    return torch.arange(5) < torch.tensor([[2], [5], [0], [4]])


@pytest.fixture
def run() -> Callable[[Loss, Tensor, Tensor], Total]:
    """Calls a loss with maps, and insists on the contract of its total."""

    def call(loss: Loss, student: Tensor, teacher: Tensor) -> Total:
        total = loss({loss.signal: student}, {loss.signal: teacher}, {})
        assert isinstance(total, Total)
        assert (total.sum.dtype, total.count.dtype) == (torch.float32, torch.int64)
        assert total.sum.shape == total.count.shape == ()
        return total

    return call


@pytest.fixture
def student_map() -> Tensor:
    """(N, C, H, W) = (3, 5, 4, 6)."""
    return 2 * torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def teacher_map() -> Tensor:
    return 2 * torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(2))
