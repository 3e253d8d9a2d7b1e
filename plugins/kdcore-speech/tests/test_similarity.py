from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdcore_speech.similarity import CKA


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cka(x: Tensor, y: Tensor, parts: int = 1) -> float:
    metric = CKA()
    for ours, theirs in zip(x.chunk(parts), y.chunk(parts), strict=True):
        metric.update(ours, theirs)
    return float(metric.compute())


def test_it_is_the_paper_s_formula():
    """With Gram matrices of samples, HSIC / sqrt(HSIC HSIC), as the paper begins."""
    x, y = normal(0, 20, 4) + 3, normal(1, 20, 6)
    y[:, :4] += x
    centre = torch.eye(20) - torch.ones(20, 20) / 20
    k, m = (centre @ one @ one.T @ centre for one in (x, y))
    wanted = (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()
    assert cka(x, y) == pytest.approx(float(wanted), rel=1e-5)


def test_batches_do_not_matter():
    x, y = normal(0, 24, 4) + 3, normal(1, 24, 6)
    assert cka(x, y, parts=5) == pytest.approx(cka(x, y), rel=1e-6)


def test_turned_scaled_and_shifted_is_the_same():
    x = normal(0, 30, 4)
    turned, _ = torch.linalg.qr(normal(1, 4, 4))
    assert cka(x, 3 * x @ turned + 5) == pytest.approx(1.0, abs=1e-6)


def test_what_has_nothing_in_common_is_near_to_0():
    assert cka(normal(0, 4000, 4), normal(1, 4000, 4)) < 0.01


def test_it_starts_again():
    metric = CKA()
    metric.update(normal(0, 9, 4), normal(1, 9, 3))
    metric.reset()
    x = normal(2, 9, 5)
    metric.update(x, x)
    assert float(metric.compute()) == pytest.approx(1.0)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_and_nothing_changing_are_nan():
    assert CKA().compute().isnan()
    assert torch.tensor(cka(torch.ones(5, 2), normal(0, 5, 2))).isnan()


def test_halves_are_added_in_double_precision():
    x = normal(0, 500, 3).half() + 200
    assert cka(x, x.float()) == pytest.approx(1.0, abs=1e-6)
