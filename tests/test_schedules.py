"""Schedules: values over a stage, at its ends and in between."""

from __future__ import annotations

import pytest
import torch

from kdcore import schedules
from kdcore.schedules import Progress, Schedule


def values(schedule: Schedule, *at: float) -> list[float]:
    return [float(schedule(Progress(progress))) for progress in at]


def test_progress_is_a_number_with_the_running_losses():
    progress = Progress(0.25, {"kd": torch.tensor(2.0)})
    assert progress == 0.25
    assert progress.losses["kd"] == 2.0
    assert Progress(0.5).losses == {}


def test_a_schedule_may_read_the_running_losses():
    def balance(progress: Progress) -> torch.Tensor:
        return progress.losses["ce"] / progress.losses["kd"]

    found = schedules.value_at(balance, Progress(0.0, {"ce": torch.tensor(6.0), "kd": torch.tensor(2.0)}))
    assert isinstance(found, torch.Tensor)
    assert found == 3.0


@pytest.mark.parametrize("value", [0, 0.9, 4])
def test_a_number_is_its_own_value(value: float):
    assert schedules.value_at(value, Progress(0.7)) == value


def test_value_at_asks_the_schedule():
    assert schedules.value_at(schedules.linear(start=2.0, end=4.0), Progress(0.5)) == 3.0


def test_constant():
    assert values(schedules.constant(value=0.3), 0.0, 0.5, 1.0) == [0.3, 0.3, 0.3]
    assert values(schedules.constant(), 0.5) == [1.0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.0, 0.25, 0.5, 1.0]),
        ({"start": 4.0, "end": 1.0}, [4.0, 3.25, 2.5, 1.0]),
        ({"until": 0.5}, [0.0, 0.5, 1.0, 1.0]),
        ({"start": 1.0, "end": 0.0, "until": 0.25}, [1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_linear_rises_or_falls_and_then_holds(settings: dict[str, float], expected: list[float]):
    assert values(schedules.linear(**settings), 0.0, 0.25, 0.5, 1.0) == pytest.approx(expected)


def test_cosine_falls_from_one_to_the_floor():
    assert values(schedules.cosine(), 0.0, 0.5, 1.0) == pytest.approx([1.0, 0.5, 0.0])
    assert values(schedules.cosine(floor=0.1), 0.0, 0.5, 1.0) == pytest.approx([1.0, 0.55, 0.1])


def test_cosine_rises_first():
    warm = schedules.cosine(warmup=0.2)
    assert values(warm, 0.0, 0.1, 0.2, 0.6, 1.0) == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])


def test_cosine_never_rises_again_and_stays_in_range():
    found = values(schedules.cosine(warmup=0.1, floor=0.05), *(0.1 + 0.009 * i for i in range(101)))
    assert found == sorted(found, reverse=True)
    assert min(found) == pytest.approx(0.05)


def test_cosine_beyond_the_end_stays_at_the_floor():
    assert values(schedules.cosine(floor=0.2), 1.0, 1.01) == pytest.approx([0.2, 0.2])


def test_step_falls_at_each_fraction():
    stepped = schedules.step(at=[0.3, 0.6])
    assert values(stepped, 0.0, 0.29, 0.3, 0.59, 0.6, 1.0) == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])
    assert values(schedules.step(at=[0.5], factor=0.5), 0.4, 0.5) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.linear(until=0.0), r"until=0.0 is not in \(0, 1\]: it is a share of the stage"),
        (lambda: schedules.linear(until=1.5), r"until=1.5 is not in \(0, 1\]"),
        (lambda: schedules.linear(until=-0.5), r"until=-0.5 is not in \(0, 1\]"),
        (lambda: schedules.cosine(warmup=1.0), r"warmup=1.0 is not in \[0, 1\): it is the share of the stage spent"),
        (lambda: schedules.cosine(warmup=-0.1), r"warmup=-0.1 is not in \[0, 1\)"),
        (lambda: schedules.step(at=[0.5, 30]), r"at=30 is not in \[0, 1\]: it is a share of the stage"),
    ],
)
def test_what_is_no_share_of_the_stage_is_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()
