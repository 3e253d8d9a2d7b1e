"""The trade-off picture: what each model costs against how well it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from kdcore.report.words import measured, percent, points, si

# Okabe and Ito's palette, which colour-blind readers can tell apart; shapes differ too
STYLES = {
    "teacher": ("#0072B2", "s"),
    "alone": ("#767676", "o"),
    "student": ("#D55E00", "D"),
    "trained": ("#009E73", "^"),
}
DPI = 150
LABEL_HEIGHT = 50.0
"""Pixels that a label's two lines take, with air."""
LABEL_WIDTH = 300.0
"""Pixels: labels that start farther apart than this do not meet."""


@dataclass
class _Point:
    name: str
    role: str
    x: float
    y: float
    std: float


def tradeoff(report: Mapping[str, Any]) -> Figure:
    """Parameters (logarithmic) against the primary metric, one labelled point a model, error bars over seeds.

    A dashed line leads from each student alone to the distilled student. Models whose parameters or metric are
    not known are left out. The figure is not known to pyplot.
    """
    figure = Figure(figsize=(7.2, 4.5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    found = _points(report)
    metric, mode = report["primary"]["name"], report["primary"]["mode"]
    _frame(axes, found, shares=percent(report, metric))
    axes.set_xlabel("parameters")
    axes.set_ylabel(f"{metric} ({report['split']}, {'more' if mode == 'max' else 'less'} is better)")
    axes.set_title(f"{report['name']}: cost against quality", loc="left", fontsize=11)
    for point in found:
        colour, marker = STYLES.get(point.role, STYLES["trained"])
        # the student alone is drawn larger and below, so that it still shows where the student covers it
        size, layer = (11, 3) if point.role == "alone" else (8, 4)
        bar = point.std or None
        axes.errorbar(point.x, point.y, bar, fmt=marker, color=colour, markersize=size, capsize=4, zorder=layer)
    _arrows(axes, report, {point.name: point for point in found})
    _labels(figure, axes, report, found)
    return figure


def _points(report: Mapping[str, Any]) -> list[_Point]:
    found = []
    for name, model in report["models"].items():
        y, std = measured(report, name, report["primary"]["name"])
        if y is not None and model.get("parameters"):
            found.append(_Point(name, model["role"], float(model["parameters"]), y, std or 0.0))
    return found


def _frame(axes: Axes, found: Sequence[_Point], *, shares: bool) -> None:
    """Limits with room for the labels to the right of a point, a light grid, a tick at each size that occurs."""
    axes.set_xscale("log")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if shares:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    if not found:
        axes.text(0.5, 0.5, "no model has both a size and a score", ha="center", transform=axes.transAxes)
        return
    decades = [math.log10(point.x) for point in found]
    width = max(max(decades) - min(decades), 0.3)
    sizes: list[float] = []
    for decade in sorted(decades):
        if not sizes or decade - sizes[-1] > 0.12 * width:
            sizes.append(decade)
    axes.set_xticks([10**size for size in sizes], [si(10**size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlim(10 ** (min(decades) - 0.15 * width), 10 ** (max(decades) + 0.45 * width))
    low, high = min(point.y - point.std for point in found), max(point.y + point.std for point in found)
    height = max(high - low, 0.02 * abs(high), 1e-6)
    axes.set_ylim(low - 0.18 * height, high + 0.18 * height)


def _arrows(axes: Axes, report: Mapping[str, Any], found: Mapping[str, _Point]) -> None:
    for student, comparison in report["comparisons"].items():
        if student in found and comparison["alone"] in found:
            ends = [found[name] for name in (comparison["alone"], student)]
            axes.plot(
                [p.x for p in ends], [p.y for p in ends], "--", color=STYLES["student"][0], linewidth=1, alpha=0.6
            )


def _labels(figure: Figure, axes: Axes, report: Mapping[str, Any], found: Sequence[_Point]) -> None:
    """Writes each name right of its point; labels that would meet are pushed apart and keep a thin line to it."""
    figure.draw_without_rendering()  # fixes the layout, so that pixels are known
    pixels = {point.name: axes.transData.transform((point.x, point.y)) for point in found}
    placed: list[tuple[float, float]] = []
    floor = axes.transAxes.transform((0, 0))[1] + LABEL_HEIGHT / 2
    for point in sorted(found, key=lambda p: pixels[p.name][1]):
        x, y = pixels[point.name]
        below = [other for at, other in placed if abs(at - x) < LABEL_WIDTH]
        height = max([y, floor, *(other + LABEL_HEIGHT for other in below)])
        placed.append((x, height))
        axes.annotate(
            _text(report, point),
            (point.x, point.y),
            xytext=(14, (height - y) * 72 / DPI),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=STYLES.get(point.role, STYLES["trained"])[0],
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 4},
        )


def _text(report: Mapping[str, Any], point: _Point) -> str:
    shown = f"{100 * point.y:.1f} %" if percent(report, report["primary"]["name"]) else f"{point.y:.4g}"
    gain = report["comparisons"].get(point.name, {}).get("gain")
    return f"{point.name}\n{shown}" + ("" if gain is None else f" ({points(report, gain)})")
