"""Cost over length as figures: time, peak memory, and ratios beside their ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from longrec.evaluation.report.drawing import COLOURS, INK, WIDE, legend_above, on_white
from longrec_bench.cost.analysis import PEERS, ratios
from longrec_bench.cost.plan import PASSES
from longrec_bench.cost.systems import FREE
from longrec_bench.measurement import Row

HEIGHT = 3.6
Colours = Mapping[str, str]


def figures(cells: Sequence[Row]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each figure's name, and its bytes by format ("svg", "png")."""
    for kind, peer in PEERS.items():
        own = [cell for cell in cells if kind in cell]
        known = [cell for cell in own if cell["peak_bytes"] and cell["pass"] != "step"]
        compared = [row for row in ratios(cells) if kind in row and row["pass"] != "step"]
        colours = _colours(own, kind)
        for what, rows, draw in (
            ("time", own, _draw_times),
            ("memory", known, _draw_memory),
            ("ratio", compared, partial(_draw_ratios, peer)),
        ):
            if rows:
                width = WIDE if len({row["pass"] for row in rows}) > 1 else WIDE / 2
                drawn = partial(_draw_panels, rows, partial(draw, kind, colours))
                yield f"{kind}-{what}", on_white(drawn, HEIGHT, width)
    for kind, size in (("bank", "slots"), ("loss", "catalog")):
        own = [cell for cell in cells if kind in cell]
        if own:
            yield kind, on_white(partial(_draw_sizes, own, kind, size), HEIGHT)


def _draw_panels(
    rows: Sequence[Row], draw: Callable[[Any, Sequence[Row]], None], figure: Figure
) -> None:
    """A panel over length for each pass that there is, both axes logarithmic."""
    passes = [which for which in PASSES if any(row["pass"] == which for row in rows)]
    panels = figure.subplots(1, len(passes), squeeze=False)[0]
    for axes, which in zip(panels, passes, strict=True):
        axes.set_title(which)
        own = [row for row in rows if row["pass"] == which]
        lengths = sorted({row["length"] for row in own})
        axes.set_xscale("log")
        axes.set_xticks(lengths, [_short(length) for length in lengths], rotation=45)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("events")
        draw(axes, own)
        _make_logarithmic(axes, "y")
    legend_above(figure, panels[0])


def _draw_times(kind: str, colours: Colours, axes: Any, rows: Sequence[Row]) -> None:
    """Medians as lines, from least to most as bands."""
    for name, own in _draw_lines(kind, colours, axes, rows, "length", _milliseconds):
        x = [row["length"] for row in own]
        low, high = ([1e3 * row[k] for row in own] for k in ("seconds_min", "seconds_max"))
        axes.fill_between(x, low, high, color=colours[name], alpha=0.15, linewidth=0)
    axes.set_ylabel("milliseconds")


def _draw_memory(kind: str, colours: Colours, axes: Any, rows: Sequence[Row]) -> None:
    mebibytes: Callable[[Row], float] = lambda row: row["peak_bytes"] / 2**20  # noqa: E731
    list(_draw_lines(kind, colours, axes, rows, "length", mebibytes))
    axes.set_ylabel("peak memory, MiB")


def _draw_ratios(peer: str, kind: str, colours: Colours, axes: Any, rows: Sequence[Row]) -> None:
    """How many times as fast as fused attention, and what a free mixer would give, dashed."""
    compared = [row for row in rows if row[kind] != FREE]
    list(_draw_lines(kind, colours, axes, compared, "length", lambda row: float(row["ratio"])))
    ceiling = {row["length"]: row["ceiling"] for row in rows if row.get("ceiling")}
    if ceiling:
        x = sorted(ceiling)
        y = [ceiling[length] for length in x]
        axes.plot(x, y, color=INK, linestyle="--", linewidth=1, label="ceiling")
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_ylabel(f"times as fast as {peer}")


def _draw_sizes(cells: Sequence[Row], kind: str, size: str, figure: Figure) -> None:
    axes = figure.subplots()
    per_target: Callable[[Row], float] = lambda row: _milliseconds(row) / row["batch"]  # noqa: E731
    value = per_target if kind == "loss" else _milliseconds
    list(_draw_lines(kind, _colours(cells, kind), axes, cells, size, value))
    _make_logarithmic(axes, "x")
    _make_logarithmic(axes, "y")
    axes.set_xlabel({"slots": "slots", "catalog": "items"}[size])
    axes.set_ylabel("milliseconds per target" if kind == "loss" else "milliseconds")
    legend_above(figure, axes)


def _draw_lines(
    kind: str,
    colours: Colours,
    axes: Any,
    rows: Sequence[Row],
    x: str,
    y: Callable[[Row], float],
) -> Iterator[tuple[str, list[Row]]]:
    """A line for each name that has rows; -> the name and its rows, by rising x."""
    for name, colour in colours.items():
        own = sorted((row for row in rows if row[kind] == name), key=lambda row: int(row[x]))
        if own:
            xs, ys = [row[x] for row in own], [y(row) for row in own]
            axes.plot(xs, ys, color=colour, marker="o", markersize=3, label=name)
            yield name, own


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


def _colours(rows: Sequence[Row], kind: str) -> dict[str, str]:
    names = dict.fromkeys(row[kind] for row in rows)
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def _milliseconds(row: Row) -> float:
    return 1e3 * float(row["seconds_median"])
