"""What kdcore promises of every loss, checked on those of dense detectors; ``test_promises_sets`` has the others."""

from __future__ import annotations

import distillers
import pytest
import supervised
import test_promises_sets
from kdcore.testing import check_loss, registered

CASES = {**distillers.CASES, **supervised.CASES}


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_what_a_loss_promises(name: str):
    make, given = CASES[name]
    check_loss(make, **{**given, "skip": {**given.get("skip", {}), "compile": "takes long, and is tested below"}})


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_compiles(name: str):
    make, given = CASES[name]
    check_loss(make, **given, only=["compile"])


def test_no_loss_is_forgotten():
    made = {name: make for cases in (CASES, test_promises_sets.CASES) for name, (make, _) in cases.items()}
    assert {name.partition(":")[0]: type(make()) for name, make in made.items()} == registered("detection", "loss")
