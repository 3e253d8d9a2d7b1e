from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from kdcore.run.history import History


def table(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.reader(opened))


def row(step: int, name: str, value: str) -> list[str]:
    return [str(step), name, value]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of a stage that logged at steps 10, 20 and 30."""
    file = tmp_path / "metrics.csv"
    history = History(file)
    for step in (10, 20, 30):
        history.log_metrics({"distil/train/ce": step / 10, "distil/val/accuracy": step / 100}, step)
    return file


def test_a_row_for_each_value(file: Path) -> None:
    assert file.read_text(encoding="utf-8").startswith("step,metric,value\n10,distil/train/ce,1\n")
    assert table(file)[1:3] == [row(10, "distil/train/ce", "1"), row(10, "distil/val/accuracy", "0.1")]
    assert len(table(file)) == 1 + 6


def test_what_is_not_a_result_is_left_out(tmp_path: Path) -> None:
    history = History(tmp_path / "metrics.csv")
    history.log_metrics({"epoch": 1, "loss": 0.5})
    history.log_hyperparams({"lr": 0.1})
    assert table(tmp_path / "metrics.csv")[1:] == [row(0, "loss", "0.5")]


@pytest.mark.parametrize(("value", "text"), [(1 / 3, "0.33333333"), (1e-12, "1e-12"), (float("nan"), "nan"), (3, "3")])
def test_values(tmp_path: Path, value: float, text: str) -> None:
    History(tmp_path / "metrics.csv").log_metrics({"loss": value}, 1)
    assert table(tmp_path / "metrics.csv")[1] == row(1, "loss", text)


@pytest.mark.parametrize("name", ["a,b", 'a "quoted" name', "läß", " spaced "])
def test_odd_names_come_back_as_they_were_and_survive_a_resume(tmp_path: Path, name: str) -> None:
    History(tmp_path / "metrics.csv").log_metrics({name: 0.5}, 1)
    assert table(tmp_path / "metrics.csv")[1] == row(1, name, "0.5")
    History(tmp_path / "metrics.csv", resume_from=1)
    assert table(tmp_path / "metrics.csv")[1] == row(1, name, "0.5")


def test_a_resumed_stage_drops_what_will_be_logged_again(file: Path) -> None:
    before = file.read_text(encoding="utf-8")
    history = History(file, resume_from=20)
    assert [int(step) for step, _, _ in table(file)[1:]] == [10, 10, 20, 20]
    history.log_metrics({"distil/train/ce": 3.0, "distil/val/accuracy": 0.3}, 30)
    assert file.read_text(encoding="utf-8") == before


def test_a_stage_that_starts_anew_starts_the_file_anew(file: Path) -> None:
    History(file)
    assert table(file) == [["step", "metric", "value"]]


def test_a_resume_from_step_0_keeps_what_was_logged_before_training(tmp_path: Path) -> None:
    History(tmp_path / "metrics.csv").log_metrics({"teacher": 0.9})
    History(tmp_path / "metrics.csv", resume_from=0)
    assert table(tmp_path / "metrics.csv")[1:] == [row(0, "teacher", "0.9")]


def test_a_resume_without_a_file_starts_one(tmp_path: Path) -> None:
    History(tmp_path / "metrics.csv", resume_from=5)
    assert table(tmp_path / "metrics.csv") == [["step", "metric", "value"]]


@pytest.mark.parametrize(
    "torn",
    ["20", "20,distil/train/ce", "20,distil/train/ce,", "20,distil/train/ce,0.4", '20,"a,', "\0\0\0\0", "\udcff,a,b"],
)
def test_a_last_line_that_a_crash_tore_is_dropped(file: Path, torn: str) -> None:
    whole = table(file)
    with file.open("ab") as opened:
        opened.write(torn.encode("utf-8", "surrogateescape"))
    History(file, resume_from=100)
    assert table(file) == whole


@pytest.mark.parametrize("garbage", ["20,a", "a,b,c", "20,a,b,c", '20,"a,0.5', "", "\0\0\0", "-1,a,0.5"])
def test_lines_that_are_no_rows_are_dropped_and_those_after_them_kept(file: Path, garbage: str) -> None:
    whole = table(file)
    file.write_text(file.read_text() + f"{garbage}\n40,late,1\n")
    History(file, resume_from=100)
    assert table(file) == [*whole, row(40, "late", "1")]


def test_resuming_replaces_the_file_so_that_a_linked_copy_stays(file: Path, tmp_path: Path) -> None:
    """An adopted stage shares its files with the run it came from."""
    linked = tmp_path / "linked.csv"
    os.link(file, linked)
    before = linked.read_text()
    History(file).log_metrics({"loss": 1.0}, 1)
    assert linked.read_text() == before


def test_other_ranks_write_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_text()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    history = History(file)
    history.log_metrics({"loss": 1.0}, 40)
    assert file.read_text() == before
    assert (history.name, history.version) == ("history", 0)
