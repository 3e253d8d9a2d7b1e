from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.report import page as page_module
from kdcore.report.page import ModelResult, Pair, SeedResult, build_report, write_report

from .conftest import ReportMaker

FIVE = ([0.93, 0.94, 0.935, 0.932, 0.928], [0.90, 0.91, 0.90, 0.899, 0.905])


def test_one_seed_follows_the_contract(make_report: ReportMaker) -> None:
    report = make_report()
    assert report["task"] == "classify"
    assert report["primary"] == {"name": "accuracy", "mode": "max"}
    assert report["seeds"] == [0]
    assert report["models"]["student"] == {
        "role": "student",
        "metrics": {
            "accuracy": {"last": 0.932 - 0.01, "best": 0.932 + 0.005, "test": 0.932},
            "ece": {"last": 0.02, "best": 0.03},
        },
        "parameters": 5_000,
        "bytes": 20_000,
        "flops": 1e6,
        "latency_ms": 0.2,
        "throughput": 5e4,
        "peak_memory_bytes": None,
    }
    comparison = report["comparisons"]["student"]
    assert (comparison["teacher"], comparison["alone"]) == ("teacher", "alone")
    assert comparison["gain"] == pytest.approx(0.031)
    assert comparison["gap"] == pytest.approx(-0.018)
    assert (comparison["p"], comparison["std"], comparison["verdict"]) == (None, None, "undecided")


def test_several_seeds_carry_mean_and_std_of_the_split(make_report: ReportMaker) -> None:
    report = make_report(*FIVE)
    found = report["models"]["student"]["metrics"]["accuracy"]
    assert found["mean"] == found["test"] == pytest.approx(np.mean(FIVE[0]))
    assert found["std"] == pytest.approx(np.std(FIVE[0], ddof=1))
    assert found["last"] == pytest.approx(np.mean(FIVE[0]) - 0.01)
    comparison = report["comparisons"]["student"]
    gains = np.subtract(*FIVE)
    assert comparison["gains"] == pytest.approx(gains)
    assert comparison["gain"] == pytest.approx(gains.mean())
    assert comparison["std"] == pytest.approx(gains.std(ddof=1))
    assert comparison["verdict"] == "better"
    assert comparison["p"] < 0.01
    assert isinstance(report["models"]["student"]["parameters"], int)


@pytest.mark.parametrize(
    ("primary", "split", "gain", "gap"),
    [
        (("accuracy", "max"), "test", 0.03, -0.02),
        (("accuracy", "max"), "val", 0.03, -0.02),
        (("perplexity", "min"), "test", -0.03, 0.02),
    ],
)
def test_gain_and_gap_are_signed_so_that_more_is_better(
    make_report: ReportMaker, primary: tuple[str, str], split: str, gain: float, gap: float
) -> None:
    comparison = make_report((0.93,), (0.90,), teacher=0.95, primary=primary, split=split)["comparisons"]["student"]
    assert comparison["gain"] == pytest.approx(gain)
    assert comparison["gap"] == pytest.approx(gap)


def test_without_a_test_split_the_kept_weights_are_compared_on_val_and_it_says_so(make_report: ReportMaker) -> None:
    report = make_report(*FIVE, split="val")
    assert report["note"] == "selected and measured on the same split"
    assert report["models"]["student"]["metrics"]["accuracy"]["mean"] == pytest.approx(np.mean(FIVE[0]) + 0.005)
    assert "note" not in make_report()


@pytest.mark.parametrize(("mode", "word"), [("max", "better"), ("min", "worse")])
def test_per_sample_scores_decide_with_one_seed(make_report: ReportMaker, mode: str, word: str) -> None:
    """For a metric where less is better, a higher score is a worse one."""
    student, alone = [1] * 30 + [0] * 2, [0] * 30 + [1] * 2
    comparison = make_report((30 / 32,), (2 / 32,), primary=("m", mode), rights=(student, alone))["comparisons"][
        "student"
    ]
    assert comparison["verdict"] == word
    assert comparison["p"] == pytest.approx(2 * sum(math.comb(32, k) for k in range(3)) / 2**32)


def test_compression_compares_with_the_teacher(make_report: ReportMaker) -> None:
    found = make_report()["comparisons"]["student"]["compression"]
    assert found == {"size": 26.0, "speed": pytest.approx(4.0), "kept": pytest.approx(0.932 / 0.95)}
    assert make_report(primary=("perplexity", "min"))["comparisons"]["student"]["compression"]["kept"] is None


def test_without_the_student_alone_there_is_no_verdict(make_report: ReportMaker) -> None:
    comparison = make_report(alone=None)["comparisons"]["student"]
    assert (comparison["alone"], comparison["gain"], comparison["p"]) == (None, None, None)
    assert comparison["verdict"] == "undecided"
    assert comparison["method"] == "no test: no student alone"
    assert comparison["gap"] == pytest.approx(-0.018)


def test_a_diverged_seed_becomes_null_not_nan(make_report: ReportMaker) -> None:
    report = make_report((0.9, math.nan), (0.8, 0.81))
    comparison = report["comparisons"]["student"]
    assert comparison["gain"] is None
    assert comparison["gains"] == [pytest.approx(0.1), None]
    assert comparison["verdict"] == "undecided"
    assert report["models"]["student"]["metrics"]["accuracy"]["mean"] is None
    json.dumps(report, allow_nan=False)


def test_a_model_that_some_seeds_lack_is_described_by_those_that_have_it() -> None:
    def result(seed: int, names: str) -> SeedResult:
        models = {name: ModelResult("trained", {"accuracy": {"best": 0.5 + seed}}, {"parameters": 3}) for name in names}
        return SeedResult(seed, models)

    report = build_report(
        name="n", task="t", primary=("accuracy", "max"), seeds=[result(0, "ab"), result(1, "b")],
        pairs=[Pair("b", None, "a")], split="val", provenance={},
    )  # fmt: skip
    assert report["models"]["a"]["metrics"]["accuracy"] == {"best": 0.5}
    assert report["models"]["b"]["metrics"]["accuracy"]["mean"] == 1.0
    assert report["comparisons"]["b"]["gains"] == [0.0]
    assert report["comparisons"]["b"]["gap"] is None


def test_no_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        build_report(
            name="n", task="t", primary=("a", "max"), seeds=[], pairs=[], split="val", provenance={}
        )  # fmt: skip


def test_writes_strict_json_a_page_and_a_picture(make_report: ReportMaker, tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "folder": tmp_path, "tensor": torch.tensor([1.0, math.nan]), "numpy": np.float64(2.5), "count": np.int64(3),
        "set": {1}, 7: True, "inf": math.inf,
    }  # fmt: skip
    report = make_report(*FIVE, provenance=odd)
    written = write_report(tmp_path / "run", report)
    assert written == tmp_path / "run" / "report.md"
    assert sorted(file.name for file in written.parent.iterdir()) == ["report.json", "report.md", "tradeoff.png"]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    loaded = json.loads((written.parent / "report.json").read_text(), parse_constant=refuse)
    assert loaded == report
    assert loaded["provenance"] == {
        "folder": str(tmp_path), "tensor": [1.0, None], "numpy": 2.5, "count": 3, "set": [1], "7": True, "inf": None,
    }  # fmt: skip
    assert written.read_text().startswith("# quickstart: did distillation pay?\n\n**Yes: ")
    assert (written.parent / "tradeoff.png").read_bytes().startswith(b"\x89PNG")


def test_a_failure_leaves_the_old_report_and_no_debris(
    make_report: ReportMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path, make_report())
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, make_report((0.5,)))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_report_json_comes_last_because_it_marks_a_finished_run(
    make_report: ReportMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(report: dict[str, Any]) -> str:
        raise RuntimeError("no page")

    monkeypatch.setattr(page_module, "page", fail)
    with pytest.raises(RuntimeError, match="no page"):
        write_report(tmp_path, make_report())
    assert not (tmp_path / "report.json").exists()
