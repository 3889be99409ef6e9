"""The report's figures: accuracy, training, use of memory banks, and accuracy against cost.

Each function takes the rows of a report (and the key of the metric that leads) and returns SVG
text, or None where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from longrec.evaluation.report.contents import by_value
from longrec.evaluation.report.drawing import (
    COLOURS,
    INK,
    WIDE,
    Rows,
    error,
    legend_above,
    name_of,
    reference_lines,
    styles_of,
    svg,
)
from longrec.evaluation.summary import Metrics, label

MOST_LINES = 8
"""Systems that a figure of lines shows; tables have all."""
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
    "kept_bytes": ("bytes kept of a user", _BYTES),
}


def accuracy_by_model(rows: Rows, key: str) -> str | None:
    """Draw one bar per model with its 95% interval; ceiling and bounds are vertical lines.

    Baselines are light and rows that did not converge are hatched, in grey print as well.
    """
    bars = [row for row in rows if row.is_system and key in row.metrics]
    bars.sort(key=lambda row: row.metrics[key])
    if not bars:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, row in enumerate(bars):
            value, open_ended = row.metrics[key], row.converged is False
            light = to_rgba(COLOURS[0], 0.25 if row.kind == "baseline" else 1)
            axes.barh(
                *(place, value),
                height=0.56,
                facecolor="none" if open_ended else light,
                edgecolor=COLOURS[0],
                hatch="///" if open_ended else "",
            )
            axes.errorbar(value, place, xerr=error(row, key), color=INK, capsize=3, linewidth=1)
            axes.annotate(  # beside the axes, where no reference line runs through it
                f"{value:.4f}",
                (1, place),
                (4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(bars)), [name_of(row) for row in bars])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        reference_lines(axes.axvline, rows, key)
        axes.set_xlim(left=0)
        axes.set_xlabel(label(key))
        legend_above(figure, axes)

    return svg(draw, height=1.15 + 0.34 * len(bars))


def accuracy_by_length(rows: Rows, key: str) -> str | None:
    """Draw the metric against the number of events before the target, one line per model."""
    lines = [
        (row, row.metrics.buckets)
        for row in rows
        if isinstance(row.metrics, Metrics) and row.metrics.buckets
    ]
    starts = {bucket.low: bucket.label for _, buckets in lines for bucket in buckets}
    if len(starts) < 2:
        return None
    order, styles, drawn = sorted(starts), styles_of(rows), _best(rows, key)
    lines = [(row, buckets) for row, buckets in lines if row.name in drawn]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (row, buckets) in enumerate(lines):
            nudge = 0.05 * (number - (len(lines) - 1) / 2)  # intervals beside each other
            x = np.array([order.index(bucket.low) for bucket in buckets]) + nudge
            y = np.array([bucket.estimates[key] for bucket in buckets])
            ends = np.array([bucket.intervals[key] for bucket in buckets])
            axes.errorbar(
                x,
                y,
                yerr=np.abs(ends.T - y),
                label=name_of(row),
                elinewidth=0.9,
                **styles[row.name]._asdict(),
            )
        axes.set_xticks(range(len(order)), [starts[low] for low in order])
        axes.set_xlabel("events before the target")
        axes.set_ylabel(label(key))
        axes.set_ylim(bottom=0)
        legend_above(figure, axes)

    return svg(draw, height=3.7)


def _best(rows: Rows, key: str) -> set[str]:
    """Names of the bounds and of the `MOST_LINES` best systems: more lines cannot be told apart."""
    ordered = by_value(rows, key)
    systems = [row.name for row in ordered if row.is_system][:MOST_LINES]
    return {*systems, *(row.name for row in ordered if not row.is_system)}


def training_curves(rows: Rows, key: str) -> str | None:
    """Draw loss and validation NDCG@10 against seconds of training, in two panels."""
    panels = {"loss": "training loss", "validation": "validation NDCG@10"}
    return _curves(rows, key, "seconds", "seconds of training", panels)


def memory_usage(rows: Rows, key: str) -> str | None:
    """Draw, by epoch, how evenly the validation used the slots of memory banks."""
    panels = {
        "memory_share": "share of slots used",
        "memory_entropy": "entropy of use / log M",
        "memory_kl": "KL to uniform use, nats",
    }
    return _curves(rows, key, "epoch", "epochs of training", panels)


def _curves(rows: Rows, key: str, x: str, name: str, panels: dict[str, str]) -> str | None:
    """Draw columns of the rows' logs, one panel each; rows that measured none have no line."""
    lines = {
        row.name: {c: row.log.select(x, c).drop_nulls().sort(x).to_numpy() for c in panels}
        for row in by_value(rows, key)
        if row.log is not None and {x, *panels} <= set(row.log.columns)
    }
    measured = [name for name, by in lines.items() if any(map(len, by.values()))]
    lines = {name: lines[name] for name in measured[:MOST_LINES]}
    if not lines:
        return None
    styles = styles_of(rows)

    def draw(figure: Figure) -> None:
        for axes, (column, title) in zip(
            figure.subplots(1, len(panels)), panels.items(), strict=True
        ):
            for row, by in lines.items():
                every = max(1, len(by[column]) // 12)  # markers name a line, and must not cover it
                axes.plot(
                    *by[column].T,
                    label=row,
                    markevery=every,
                    markersize=3.6,
                    linewidth=1.3,
                    **styles[row]._asdict(),
                )
            axes.set_title(title)
            axes.set_xlabel(name)
        legend_above(figure, axes)

    return svg(draw, height=3.2, width=6.0 if len(panels) == 2 else WIDE)


def accuracy_against_cost(rows: Rows, key: str) -> str | None:
    """Draw each model at its cost (logarithmic) and its metric with interval, by kind of cost.

    A line joins the rows that no other matches at less cost.
    """
    systems = [row for row in rows if row.is_system and key in row.metrics]
    costs = {
        kind: {row: getattr(row.cost, kind) for row in systems if getattr(row.cost, kind)}
        for kind in _PANELS
    }
    costs = {kind: known for kind, known in costs.items() if known}
    if not costs:
        return None
    styles, wide = styles_of(rows), len(costs) > 1

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
        for axes, (kind, known) in zip(panels, costs.items(), strict=True):
            for row, cost in known.items():
                axes.errorbar(
                    cost,
                    row.metrics[key],
                    yerr=error(row, key),
                    color=styles[row.name].color,
                    marker=styles[row.name].marker,
                    markersize=6,
                    markerfacecolor="none" if row.converged is False else None,
                    elinewidth=1,
                    capsize=3,
                    linestyle="",
                    label=name_of(row),
                )
            front = pareto_front([(cost, row.metrics[key]) for row, cost in known.items()])
            if len(front) > 1:
                x, y = zip(*front, strict=True)
                axes.plot(
                    x, y, color=INK, alpha=0.45, linewidth=1, drawstyle="steps-post",
                    label="front", zorder=1,
                )  # fmt: skip
            words, ticks = _PANELS[kind]
            _scale(axes, list(known.values()), ticks, wide)
            reference_lines(axes.axhline, rows, key)
            axes.set_xlabel(words)
        panels[0].margins(y=0.18)
        panels[0].set_ylabel(label(key))
        legend_above(figure, max(panels, key=lambda a: len(a.get_legend_handles_labels()[1])))

    return svg(draw, height=3.3, width=WIDE if wide else 6.0)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points (cost, value) that no other beats in one of the two and matches in the other."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


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
