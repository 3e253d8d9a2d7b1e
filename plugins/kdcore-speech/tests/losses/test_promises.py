"""What kdcore promises of every loss: here of CTC, in the files beside this one of the distillers."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path

import pytest
from kdcore.testing import check_loss, registered

from kdcore_speech.losses.ctc import CTC
from utterances import BLANK, utterances

KERNEL = "torch's own kernel reads the lengths on the host: its docstring says so"
CASES = {
    "ctc": (
        partial(CTC, blank=BLANK),
        {**utterances(), "teacher": None, "skip": {"device": KERNEL, "compile": KERNEL}},
    )
}


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_what_a_loss_promises(name: str):
    make, given = CASES[name]
    check_loss(make, **given)


def test_no_loss_is_forgotten():
    found = {}
    for file in Path(__file__).parent.glob("test_promises*.py"):
        cases = importlib.import_module(file.stem).CASES
        found |= {name.partition(":")[0]: type(make()) for name, (make, *_) in cases.items()}
    assert found == registered("speech", "loss")
