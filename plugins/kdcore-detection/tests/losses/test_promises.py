"""What kdcore promises of every loss, checked on each that this plugin registers."""

from __future__ import annotations

import distillers
import pytest
import supervised
from kdcore.testing import check_loss

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
