"""The report's figures, as SVG text that stands inside an HTML page and follows its colours.

Each function takes the rows of a report and the key of the metric that leads, and returns None
where there is nothing to draw. Lines and letters are drawn in the page's text colour
(``currentColor``), so one figure serves light, dark and print. No pyplot: a figure is a value, with
no window and no global state.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from longrec.evaluation.contents import ReportRow
from longrec.evaluation.summary import UNFILTERED, Metrics

COLOURS = (
    "#2f7fc1", "#dd7a35", "#38a169", "#c8507f", "#8a6fc4", "#b3891c", "#2fa3b3", "#a06a4c",
)  # fmt: skip  # of middle lightness: readable on white and on near-black
_INK = "#010203"  # stands for the page's text colour until the SVG is text
_STYLE: Any = {  # matplotlib types the keys one by one, too narrowly for a plain dict
    "svg.fonttype": "none",  # letters stay text: selectable, and small files
    "svg.hashsalt": "longrec",  # the same report gives the same bytes
    "text.parse_math": False,  # a name with two dollar signs is a name
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": _INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}
Rows = Sequence["ReportRow"]


def accuracy_by_model(rows: Rows, key: str) -> str | None:
    """Draw one bar per model with its 95% interval; ceiling and bounds are vertical lines."""
    bars = sorted((row for row in _contenders(rows) if key in row.metrics), key=_value_of(key))
    if not bars:
        return None
    colours = _colours(rows)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, row in enumerate(bars):
            value = row.metrics[key]
            faded = row.converged is False
            axes.barh(place, value, height=0.56, color=colours[row.name], alpha=0.4 if faded else 1)
            axes.errorbar(value, place, xerr=_error(row, key), color=_INK, capsize=3, linewidth=1)
            axes.annotate(  # beside the axes, where no reference line runs through it
                f"{value:.4f}",
                (1, place),
                (4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(bars)), [_name(row) for row in bars])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        _reference_lines(axes.axvline, rows, key)
        axes.set_xlim(left=0)
        axes.set_xlabel(label(key))
        _legend_above(figure, axes)

    return _svg(draw, height=1.15 + 0.34 * len(bars))


def accuracy_by_length(rows: Rows, key: str) -> str | None:
    """Draw the metric against the number of events before the target, one line per model."""
    drawn = [row for row in rows if isinstance(row.metrics, Metrics) and row.metrics.buckets]
    starts = {bucket.low: bucket.label for row in drawn for bucket in _buckets(row)}
    if len(starts) < 2:
        return None
    order, colours = sorted(starts), _colours(rows)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, row in enumerate(drawn):
            buckets = _buckets(row)
            nudge = 0.05 * (number - (len(drawn) - 1) / 2)  # intervals beside each other
            x = np.array([order.index(bucket.low) for bucket in buckets]) + nudge
            y = np.array([bucket.estimates[key] for bucket in buckets])
            ends = np.array([bucket.intervals[key] for bucket in buckets])
            model = row.kind in ("model", "baseline")
            axes.errorbar(
                x,
                y,
                yerr=np.abs(ends.T - y),
                label=_name(row),
                color=colours[row.name] if model else _INK,
                linestyle="-" if model else _dash(row),
                marker="o" if model else "",
                elinewidth=0.9,
            )
        axes.set_xticks(range(len(order)), [starts[low] for low in order])
        axes.set_xlabel("events before the target")
        axes.set_ylabel(label(key))
        axes.set_ylim(bottom=0)
        _legend_above(figure, axes)

    return _svg(draw, height=3.7)


def training_curves(rows: Rows) -> str | None:
    """Draw loss and validation NDCG@10 against seconds of training, in two panels."""
    logged = [(row, row.log) for row in rows if row.log is not None and len(row.log)]
    if not logged:
        return None
    colours = _colours(rows)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2)
        for axes, column, title in zip(
            panels, ("loss", "validation"), ("training loss", "validation NDCG@10"), strict=True
        ):
            for row, log in logged:
                points = log.select("seconds", column).drop_nulls().sort("seconds").to_numpy()
                if len(points):
                    axes.plot(
                        points[:, 0],
                        points[:, 1],
                        label=row.name,
                        color=colours[row.name],
                        marker="o" if len(points) <= 30 else "",
                        markersize=3.2,
                    )
            axes.set_title(title)
            axes.set_xlabel("seconds of training")
        _legend_above(figure, panels[0])

    return _svg(draw, height=3.2)


def accuracy_against_time(rows: Rows, key: str) -> str | None:
    """Draw each model at its training seconds (logarithmic) and its metric with interval."""
    drawn = [row for row in _contenders(rows) if row.train_seconds and key in row.metrics]
    if not drawn:
        return None
    colours = _colours(rows)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row in drawn:
            x, y = row.train_seconds or 0.0, row.metrics[key]
            axes.errorbar(
                x,
                y,
                yerr=_error(row, key),
                color=colours[row.name],
                marker="o",
                markersize=6,
                markerfacecolor="none" if row.converged is False else None,
                elinewidth=1,
                capsize=3,
                linestyle="",
                label=_name(row),
            )
        axes.set_xscale("log")
        seconds = [row.train_seconds or 1.0 for row in drawn]
        low, high = min(seconds) / 1.6, max(seconds) * 1.6
        ticks = [tick for tick in _TIMES if low <= tick <= high]
        if len(ticks) > 1:
            axes.set_xticks(list(ticks), [_TIMES[tick] for tick in ticks])
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low, high)
        _reference_lines(axes.axhline, rows, key)
        axes.margins(y=0.18)
        axes.set_xlabel("training time")
        axes.set_ylabel(label(key))
        _legend_above(figure, axes)

    return _svg(draw, height=3.3)


_TIMES = {
    0.1: "0.1 s", 0.3: "0.3 s", 1: "1 s", 3: "3 s", 10: "10 s", 30: "30 s", 60: "1 min",
    180: "3 min", 600: "10 min", 1800: "30 min", 3600: "1 h", 10800: "3 h", 36000: "10 h",
    86400: "1 day", 259200: "3 days", 864000: "10 days",
}  # fmt: skip


def label(key: str) -> str:
    """Write a metric's key for people: "unfiltered/ndcg@10" is "NDCG@10, unfiltered"."""
    plain = key.removeprefix(UNFILTERED).upper()
    return f"{plain}, unfiltered" if key.startswith(UNFILTERED) else plain


def _contenders(rows: Rows) -> list[ReportRow]:
    return [row for row in rows if row.kind in ("model", "baseline")]


def _colours(rows: Rows) -> dict[str, str]:
    """Give every contender one colour, the same in all figures."""
    return {row.name: COLOURS[i % len(COLOURS)] for i, row in enumerate(_contenders(rows))}


def _name(row: ReportRow) -> str:
    """Shorten a name to what a legend holds, and mark it where training did not converge."""
    name = row.name if len(row.name) <= 28 else row.name[:27] + "…"
    return f"{name} (not converged)" if row.converged is False else name


def _value_of(key: str) -> Callable[[ReportRow], float]:
    return lambda row: row.metrics[key]


def _buckets(row: ReportRow) -> Sequence[Any]:
    return row.metrics.buckets if isinstance(row.metrics, Metrics) else ()


def _interval(row: ReportRow, key: str) -> tuple[float, float]:
    value = row.metrics[key]
    return row.metrics.intervals[key] if isinstance(row.metrics, Metrics) else (value, value)


def _error(row: ReportRow, key: str) -> list[list[float]]:
    (low, high), value = _interval(row, key), row.metrics[key]
    return [[max(value - low, 0.0)], [max(high - value, 0.0)]]


def _dash(row: ReportRow) -> str:
    return "--" if row.kind == "ceiling" else ":"


def _reference_lines(line: Callable[..., Any], rows: Rows, key: str) -> None:
    for row in rows:
        if row.kind in ("ceiling", "bound") and key in row.metrics:
            line(
                row.metrics[key], color=_INK, linestyle=_dash(row), linewidth=1.2, label=_name(row)
            )


def _legend_above(figure: Figure, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        columns = 3 if max(map(len, labels)) <= 18 else 2
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def _svg(draw: Callable[[Figure], None], height: float, width: float = 6.0) -> str:
    """Draw on a fresh figure (inches) and give its ``<svg>`` element, fit for an HTML page."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # no XML prologue
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace(_INK, "currentColor").strip()


def with_own_ids(svg: str, prefix: str) -> str:
    """Prefix every id of a figure and its uses, so that several can stand on one page."""
    svg = re.sub(r'(<[^>]*\bid=")', rf"\g<1>{prefix}-", svg)
    return re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}-", svg)
