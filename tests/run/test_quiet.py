from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from io import BufferedWriter, BytesIO, TextIOWrapper

import pytest
from lightning.pytorch.utilities import rank_zero_only

from kdcore.run.quiet import LOGGERS, quiet, say


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(
    "remark",
    [
        "The 'train_dataloader' does not have many workers which may be a bottleneck.",
        "The number of training batches (3) is smaller than the logging interval Trainer(log_every_n_steps=50).",
        "Detected call of `lr_scheduler.step()` before `optimizer.step()`.",
        "Checkpoint directory runs/a exists and is not empty.",
        "`isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)` instead.",
    ],
)
def test_remarks_that_say_nothing_are_not_shown(remark: str) -> None:
    with pytest.warns(UserWarning, match="."):  # they are shown without us
        warnings.warn(remark, UserWarning, stacklevel=1)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        quiet()
        warnings.warn(remark, UserWarning, stacklevel=1)
    assert shown == []


def test_other_warnings_are_shown() -> None:
    quiet()
    with pytest.warns(UserWarning, match="the loss is not finite"):
        warnings.warn("the loss is not finite", UserWarning, stacklevel=1)


def test_libraries_below_may_warn_but_not_chat(caplog: pytest.LogCaptureFixture) -> None:
    quiet()
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    log.info("GPU available: False, used: False")
    log.warning("something is wrong")
    assert [record.message for record in caplog.records] == ["something is wrong"]


def test_a_line_is_printed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(BufferedWriter(written), encoding="utf-8"))
    say("a line")
    assert written.getvalue() == b"a line\n"


def test_only_the_first_rank_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    say("nobody")
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    say("first")
    assert capsys.readouterr().out == "first\n"
