"""Accuracy against cost: a panel per kind of cost, with the front that nothing else dominates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from longrec.evaluation.report.contents import ReportRow
from longrec.evaluation.report.drawing import (
    INK,
    WIDE,
    Rows,
    colours_of,
    contenders,
    error,
    label,
    legend_above,
    reference_lines,
    shown_name,
    svg,
)

_TIMES = {
    0.001: "1 ms", 0.003: "3 ms", 0.01: "10 ms", 0.03: "30 ms", 0.1: "0.1 s", 0.3: "0.3 s",
    1: "1 s", 3: "3 s", 10: "10 s", 30: "30 s", 60: "1 min", 180: "3 min", 600: "10 min",
    1800: "30 min", 3600: "1 h", 10800: "3 h", 36000: "10 h", 86400: "1 day", 259200: "3 days",
    864000: "10 days",
}  # fmt: skip
_BYTES = {
    n << shift: f"{n} {unit}"
    for shift, unit in ((0, "B"), (10, "KiB"), (20, "MiB"), (30, "GiB"))
    for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
}
_PANELS: Mapping[str, tuple[str, Mapping[Any, str]]] = {
    "seconds": ("training time", _TIMES),
    "peak_bytes": ("peak memory of training", _BYTES),
    "state_bytes": ("bytes kept of a user", _BYTES),
}


def accuracy_against_cost(rows: Rows, key: str) -> str | None:
    """Draw each model at its cost (logarithmic) and its metric with interval, by kind of cost.

    A line joins the rows that rank and that no other matches at less cost.
    """
    drawn = [row for row in contenders(rows) if key in row.metrics]
    panels = [name for name in _PANELS if any(getattr(row.cost, name) for row in drawn)]
    if not panels:
        return None
    colours = colours_of(rows)

    def draw(figure: Figure) -> None:
        wide = len(panels) > 1
        every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, kind in zip(every, panels, strict=True):
            here = [row for row in drawn if getattr(row.cost, kind)]
            for row in here:
                _point(axes, row, getattr(row.cost, kind), key, colours[row.name])
            front = pareto_front(
                [(getattr(row.cost, kind), row.metrics[key]) for row in here if row.ranks]
            )
            if len(front) > 1:
                x, y = zip(*front, strict=True)
                axes.plot(
                    x, y, color=INK, alpha=0.45, linewidth=1, drawstyle="steps-post",
                    label="front", zorder=1,
                )  # fmt: skip
            _scale(axes, [getattr(row.cost, kind) for row in here], _PANELS[kind][1], wide)
            reference_lines(axes.axhline, rows, key)
            axes.set_xlabel(_PANELS[kind][0])
        every[0].margins(y=0.18)
        every[0].set_ylabel(label(key))
        legend_above(figure, max(every, key=lambda a: len(a.get_legend_handles_labels()[1])))

    return svg(draw, height=3.3, width=WIDE if len(panels) > 1 else 6.0)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points (cost, value) that no other beats in one of the two and matches in the other."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def _point(axes: Any, row: ReportRow, x: float, key: str, colour: str) -> None:
    axes.errorbar(
        x,
        row.metrics[key],
        yerr=error(row, key),
        color=colour,
        marker="o",
        markersize=6,
        markerfacecolor="none" if row.converged is False else None,
        elinewidth=1,
        capsize=3,
        linestyle="",
        label=shown_name(row),
    )


def _scale(axes: Any, values: Sequence[float], names: Mapping[Any, str], wide: bool) -> None:
    """A logarithmic axis with ticks in words, no more of them than fit."""
    axes.set_xscale("log")
    low, high = min(values) / 2, max(values) * 2  # room for two ticks at the least
    ticks = [tick for tick in names if low <= tick <= high]
    while len(ticks) > (5 if wide else 8):
        ticks = ticks[::2]
    axes.set_xticks(ticks, [names[tick] for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low, high)
