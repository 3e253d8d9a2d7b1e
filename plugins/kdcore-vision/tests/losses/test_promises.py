"""What kdcore promises of every loss, checked on each that this plugin registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from kdcore.losses.base import Loss
from kdcore.testing import check_loss, registered, samples

from kdcore_vision.losses.deit import HardLabels
from kdcore_vision.losses.ofa import ExitHeads


def with_token(sample: Any) -> dict[str, Any]:
    """A student that answers at its distillation token."""
    return {**sample, "student": {"distillation_token": sample["student"]["logits"]}}


def with_stages() -> dict[str, Any]:
    """Two maps and the tokens of four pictures, of which one is masked."""
    sample, generator = samples.vectors(), torch.Generator().manual_seed(3)
    shapes = ((4, 4, 8, 8), (4, 6, 3, 3), (4, 7, 6))
    features = {f"feature@{i}": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
    mask = torch.tensor([True, False, True, True])
    return {**sample, "student": {**sample["student"], **features}, "batch": {**sample["batch"], "mask": mask}}


CASES: dict[str, tuple[Callable[[], Loss], dict[str, Any]]] = {
    "deit": (HardLabels, with_token(samples.vectors())),
    "deit: maps": (partial(HardLabels, label_smoothing=0.1), with_token(samples.maps())),
    "deit: tokens": (HardLabels, with_token(samples.tokens())),
    "ofa": (partial(ExitHeads, gamma=1.3, temperature=2.0), with_stages()),
}


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_what_a_loss_promises(name: str):
    make, given = CASES[name]
    check_loss(make, **given, skip={"compile": "takes long, and is tested below"})


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_compiles(name: str):
    make, given = CASES[name]
    check_loss(make, **given, only=["compile"])


def test_no_loss_is_forgotten():
    assert {name.partition(":")[0]: type(make()) for name, (make, _) in CASES.items()} == registered("vision", "loss")
