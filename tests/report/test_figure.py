from __future__ import annotations

import itertools
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from kdcore.report.figure import tradeoff

from .conftest import ReportMaker


def labels(figure: Figure) -> dict[str, Annotation]:
    found = [child for child in figure.axes[0].get_children() if isinstance(child, Annotation)]
    return {label.get_text().splitlines()[0]: label for label in found}


def values(report: dict[str, Any], **numbers: float) -> dict[str, Any]:
    for name, number in numbers.items():
        report["models"][name]["metrics"]["accuracy"] = {"test": number}
    return report


@pytest.mark.parametrize(
    ("teacher", "alone", "student"),
    [(0.95, 0.90, 0.93), (0.95, 0.931, 0.932), (0.95, 0.93, 0.93), (0.93, 0.93, 0.93), (0.95, 0.93, 0.90)],
)
@pytest.mark.parametrize("same_size", [True, False])
def test_labels_never_overlap_and_stay_inside(
    make_report: ReportMaker, teacher: float, alone: float, student: float, same_size: bool
) -> None:
    report = values(make_report(), teacher=teacher, alone=alone, student=student)
    if same_size:
        report["models"]["teacher"]["parameters"] = report["models"]["student"]["parameters"]
    figure = tradeoff(report)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(label) for label in labels(figure).values()]  # without the line to the point
    assert len(boxes) == 3
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    frame = figure.bbox
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_shows_values_gain_and_sizes(make_report: ReportMaker) -> None:
    figure = tradeoff(make_report())
    shown = labels(figure)
    assert shown["student"].get_text() == "student\n93.2 % (+3.1 points)"
    assert shown["alone"].get_text() == "alone\n90.1 %"
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5 k", "130 k"]
    assert axes.get_ylabel() == "accuracy (test, more is better)"
    assert (shown["student"].xy, shown["teacher"].xy) == ((5000.0, 0.932), (130_000.0, 0.95))


def test_error_bars_are_the_deviation_over_seeds(make_report: ReportMaker) -> None:
    axes = tradeoff(make_report([0.92, 0.94], [0.90, 0.90])).axes[0]
    bars = [bar.lines[2][0].get_segments()[0] for bar in axes.containers if bar.has_yerr]  # type: ignore[attr-defined]
    assert len(bars) == 1  # only the student varies
    assert bars[0][:, 1] == pytest.approx([0.93 - 0.01414, 0.93 + 0.01414], abs=1e-4)


def test_a_line_leads_from_the_student_alone_to_the_student(make_report: ReportMaker) -> None:
    dashed = [line for line in tradeoff(make_report()).axes[0].lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[0.901, 0.932]]


def test_models_without_a_size_or_a_score_are_left_out(make_report: ReportMaker) -> None:
    report = make_report()
    report["models"]["teacher"]["parameters"] = None
    report["models"]["alone"]["metrics"] = {}
    assert list(labels(tradeoff(report))) == ["student"]
    empty = tradeoff({**report, "models": {}, "comparisons": {}})
    assert empty.axes[0].texts[0].get_text() == "no model has both a size and a score"


def test_pyplot_does_not_know_the_figure(make_report: ReportMaker) -> None:
    before = plt.get_fignums()
    tradeoff(make_report())
    assert plt.get_fignums() == before
