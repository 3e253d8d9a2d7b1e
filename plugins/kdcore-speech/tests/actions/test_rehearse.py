from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from kdcore.data.digits import Digits
from kdcore.errors import RunError
from torch import Tensor

from kdcore_speech.actions.rehearse import Rehearse
from spoken import Labelled, Spoken

LABELS = [1, 2, 3, 1, 2, 3, 1, 2, 3, 4, -100]


def table(data: Any = None, **options: Any) -> dict[str, Tensor]:
    return Rehearse(**options)(dict.__getitem__, data or Labelled(LABELS))  # type: ignore[arg-type]


def classes(found: dict[str, Tensor], *, rehearsed: bool) -> list[int]:
    return sorted(LABELS[number - 100] for number in found["id"][found["rehearsed"] == rehearsed].tolist())


def test_the_first_step_rehearses_nothing() -> None:
    found = table(new=[1, 4])
    assert found["id"].tolist() == [100, 103, 106, 109]
    assert found["rehearsed"].dtype == torch.bool
    assert not found["rehearsed"].any()


@pytest.mark.parametrize("memory", [1, 2, 3, 50])
def test_a_later_step_keeps_a_few_of_each_class(memory: int) -> None:
    found = table(new=[3], old=[1, 2], memory=memory)
    kept = min(memory, 3)
    assert classes(found, rehearsed=True) == [1] * kept + [2] * kept
    assert classes(found, rehearsed=False) == [3, 3, 3]
    assert found["id"].tolist() == sorted(found["id"].tolist())


def test_the_memory_is_the_same_in_every_step_and_drawn_by_the_seed() -> None:
    data = Labelled([1, 2, 3, 4] * 20)

    def remembered(seed: int, **options: Any) -> set[int]:
        data.seed = seed
        found = table(data, memory=4, **options)
        ids = found["id"][found["rehearsed"]].tolist()
        return {number for number in ids if (number - 100) % 4 == 0}  # of class 1

    first = remembered(0, new=[2], old=[1])
    assert len(first) == 4
    assert first == remembered(0, new=[4], old=[1, 2, 3])
    assert first != remembered(1, new=[2], old=[1])


def test_a_transcript_begins_with_its_class() -> None:
    data = Spoken([[1]] * 4, ["one two", "two", "three one", None])
    assert table(data, new=[1])["id"].tolist() == [100]
    found = table(data, new=[3], old=[1, 2], memory=1)
    assert (found["id"].tolist(), found["rehearsed"].tolist()) == ([100, 101, 102], [True, True, False])


def test_a_class_without_clips() -> None:
    with pytest.raises(RunError, match=re.escape("`speech.rehearse`: no training clip has the class 0 (`zero`)")):
        table(new=[1, 0])
    with pytest.raises(RunError, match=r"no training clip has the class 9$"):
        table(new=[1], old=[9], memory=1)


def test_other_data() -> None:
    with pytest.raises(RunError, match=r"`speech\.rehearse` reads training clips of sound, and the data is a Digits"):
        table(Digits(), new=[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new": []}, "new=[], old=None: give one new class at least, and none that is old as well"),
        (
            {"new": [1, 2], "old": [2], "memory": 1},
            "new=[1, 2], old=[2]: give one new class at least, and none that is old as well",
        ),
        (
            {"new": [1], "old": [2]},
            "old=[2] with memory=0: give earlier classes, and how many clips of each are kept",
        ),
        (
            {"new": [1], "memory": 3},
            "old=None with memory=3: give earlier classes, and how many clips of each are kept",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Rehearse(**options)
