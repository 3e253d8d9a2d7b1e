from __future__ import annotations

import pytest

from kdcore.data.bad import left_out, reason
from kdcore.errors import RunError


def test_nothing_left_out_is_nothing_to_say():
    assert left_out("train", [], 4) == []


def test_a_few_are_named_and_more_are_counted():
    assert left_out("val", ["a: bad", "b: bad"], 4) == [
        "2 of 4 samples of the split `val` were left out: a: bad; b: bad"
    ]
    assert left_out("val", ["a", "b", "c", "d", "e"], 9) == [
        "5 of 9 samples of the split `val` were left out: a; b; c (and 2 more)"
    ]


def test_none_left_is_an_error():
    with pytest.raises(
        RunError, match=r"^none of the 2 samples of the split `test` can be used; the first: a.png: is damaged$"
    ):
        left_out("test", ["a.png: is damaged", "b.png: is damaged"], 2)


def test_a_reason_is_one_line():
    assert reason(ValueError("first\nsecond")) == "ValueError: first"


def test_samples_may_be_called_otherwise():
    assert left_out("val", ["a: bad"], 4, "clips") == ["1 of 4 clips of the split `val` were left out: a: bad"]
