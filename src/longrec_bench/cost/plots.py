"""Cost over length as figures: time, peak memory, and ratios beside their ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from longrec.evaluation.report.drawing import COLOURS, INK, WIDE, legend_above, on_white
from longrec_bench.analysis import ratios
from longrec_bench.cost.systems import FREE, PEERS
from longrec_bench.measurement import Row
from longrec_bench.plan import PASSES

HEIGHT = 3.6
Value = Callable[[Row], float]
Colours = dict[str, str]


def figures(cells: Sequence[Row]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each figure's name, and its bytes by format ("svg", "png")."""
    for kind, peer in PEERS.items():
        own = [cell for cell in cells if kind in cell]
        known = [cell for cell in own if cell["peak_bytes"] and cell["pass"] != "step"]
        compared = [row for row in ratios(cells) if kind in row and row["pass"] != "step"]
        colours = _colours(own, kind)
        for what, rows, label, value in (
            ("time", own, "milliseconds", _milliseconds),
            ("memory", known, "peak memory, MiB", _mebibytes),
            ("ratio", compared, f"times as fast as {peer}", _ratio),
        ):
            if rows:
                width = WIDE if len({row["pass"] for row in rows}) > 1 else WIDE / 2
                draw = partial(_draw_passes, rows, kind, colours, label, value)
                yield f"{kind}-{what}", on_white(draw, HEIGHT, width)
    for kind, size in (("bank", "slots"), ("loss", "catalog")):
        own = [cell for cell in cells if kind in cell]
        if own:
            yield kind, on_white(partial(_draw_sizes, own, kind, size), HEIGHT)


def _draw_passes(
    rows: Sequence[Row], kind: str, colours: Colours, label: str, value: Value, figure: Figure
) -> None:
    """A panel over length for each pass that there is, both axes logarithmic."""
    passes = [which for which in PASSES if any(row["pass"] == which for row in rows)]
    panels = figure.subplots(1, len(passes), squeeze=False)[0]
    for axes, which in zip(panels, passes, strict=True):
        own = [row for row in rows if row["pass"] == which]
        lengths = sorted({row["length"] for row in own})
        axes.set(title=which, xlabel="events", ylabel=label, xscale="log")
        axes.set_xticks(lengths, [_short(length) for length in lengths], rotation=45)
        axes.xaxis.set_minor_formatter(NullFormatter())
        _draw_lines(axes, own, kind, colours, "length", value)
        if value is _ratio:
            _draw_ceiling(axes, own)
        _make_logarithmic(axes, "y")
    legend_above(figure, panels[0])


def _draw_ceiling(axes: Any, rows: Sequence[Row]) -> None:
    """What a free mixer would give, dashed, and the line of those as fast as their peer."""
    ceiling = {row["length"]: row["ceiling"] for row in rows if row.get("ceiling")}
    if ceiling:
        x, y = zip(*sorted(ceiling.items()), strict=True)
        axes.plot(x, y, color=INK, linestyle="--", linewidth=1, label="ceiling")
    axes.axhline(1, color=INK, linewidth=0.8)


def _draw_sizes(cells: Sequence[Row], kind: str, size: str, figure: Figure) -> None:
    axes = figure.subplots()
    per_target: Value = lambda row: _milliseconds(row) / row["batch"]  # noqa: E731
    value = per_target if kind == "loss" else _milliseconds
    _draw_lines(axes, cells, kind, _colours(cells, kind), size, value)
    _make_logarithmic(axes, "x")
    _make_logarithmic(axes, "y")
    axes.set_xlabel({"slots": "slots", "catalog": "items"}[size])
    axes.set_ylabel("milliseconds per target" if kind == "loss" else "milliseconds")
    legend_above(figure, axes)


def _draw_lines(
    axes: Any, rows: Sequence[Row], kind: str, colours: Colours, x: str, value: Value
) -> None:
    """A line for each name that has rows; of times over length also a band, least to most."""
    for name, colour in colours.items():
        own = sorted((row for row in rows if row[kind] == name), key=lambda row: int(row[x]))
        if not own or (value is _ratio and name == FREE):
            continue
        xs, ys = [row[x] for row in own], [value(row) for row in own]
        axes.plot(xs, ys, color=colour, marker="o", markersize=3, label=name)
        if value is _milliseconds and x == "length":
            low, high = ([1e3 * row[key] for row in own] for key in ("seconds_min", "seconds_max"))
            axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)


def _make_logarithmic(axes: Any, which: str) -> None:
    """A logarithmic axis with plain numbers, more of them over few decades."""
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
    axis.set_minor_formatter(NullFormatter())


def _short(length: int) -> str:
    """65536 -> "64k", 1048576 -> "1M", 200 -> "200"."""
    for bits, unit in ((20, "M"), (10, "k")):
        if length % (1 << bits) == 0:
            return f"{length >> bits}{unit}"
    return str(length)


def _colours(rows: Sequence[Row], kind: str) -> Colours:
    names = dict.fromkeys(row[kind] for row in rows)
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def _milliseconds(row: Row) -> float:
    return 1e3 * float(row["seconds_median"])


def _mebibytes(row: Row) -> float:
    return float(row["peak_bytes"]) / 2**20


def _ratio(row: Row) -> float:
    return float(row["ratio"])
