"""What kdcore promises of every loss, checked on that of speakers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from kdcore.losses.base import Loss
from kdcore.testing import check_loss, samples

from kdcore_speech.losses.margin import Margin


def clips() -> dict[str, Any]:
    return {
        **samples.vectors(signal="embedding", channels=(5, 5)),
        "teacher": None,
        "facts": {"classes": samples.CLASSES},
    }


CASES: dict[str, tuple[Callable[[], Loss], dict[str, Any]]] = {
    "margin": (Margin, clips()),
    "margin: additive": (partial(Margin, kind="additive"), clips()),
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
