"""Cost over length as figures: time, peak memory, and ratios beside their ceiling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from longrec.evaluation.report.drawing import COLOURS, INK, WIDE, legend_above, on_white
from longrec_bench.cells import Cell
from longrec_bench.cost.analysis import AGAINST, ratios
from longrec_bench.cost.plan import PASSES
from longrec_bench.cost.subjects import FREE

HEIGHT = 3.6


def figures(cells: Sequence[Cell]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each figure's name, and its bytes by format ("svg", "png")."""
    for kind in AGAINST:
        own = [cell for cell in cells if kind in cell]
        colours = _colours(own, kind)
        if own:
            yield f"{kind}-time", _drawn(partial(_lines, own, kind, colours, "seconds_median"), own)
        known = [cell for cell in own if cell["peak_bytes"] and cell["pass"] != "step"]
        if known:
            draw = partial(_lines, known, kind, colours, "peak_bytes")
            yield f"{kind}-memory", _drawn(draw, known)
        found = [row for row in ratios(cells) if kind in row and row["pass"] != "step"]
        if found:
            yield f"{kind}-ratio", _drawn(partial(_ratios, found, kind, colours), found)
    for kind, size in (("bank", "slots"), ("loss", "catalog")):
        own = [cell for cell in cells if kind in cell]
        if own:
            yield kind, on_white(partial(_sizes, own, kind, size), HEIGHT)


def _drawn(draw: Any, rows: Sequence[dict[str, Any]]) -> dict[str, bytes]:
    wide = len({row["pass"] for row in rows}) > 1
    return on_white(draw, HEIGHT, WIDE if wide else WIDE / 2)


def _lines(
    cells: Sequence[Cell], kind: str, colours: Mapping[str, str], key: str, figure: Figure
) -> None:
    """A figure over length, both logarithmic, a panel for each pass; times with least and most."""
    for axes, own in _panels(figure, cells):
        for name, colour in colours.items():
            some = sorted((c for c in own if c[kind] == name), key=lambda c: int(c["length"]))
            x, y = [c["length"] for c in some], [_shown(c[key], key) for c in some]
            axes.plot(x, y, color=colour, marker="o", markersize=3, label=name)
            if key == "seconds_median":
                low, high = ([1e3 * c[k] for c in some] for k in ("seconds_min", "seconds_max"))
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        _logarithmic(axes, "y")
        axes.set_ylabel("milliseconds" if key == "seconds_median" else "peak memory, MiB")
    legend_above(figure, figure.axes[0])


def _ratios(
    rows: Sequence[dict[str, Any]], kind: str, colours: Mapping[str, str], figure: Figure
) -> None:
    """How many times as fast as fused attention, and what a free mixer would give, dashed."""
    for axes, own in _panels(figure, rows):
        for name, colour in colours.items():
            some = [row for row in own if row[kind] == name and name != FREE]
            if not some:
                continue
            x, y = [row["length"] for row in some], [row["ratio"] for row in some]
            axes.plot(x, y, color=colour, marker="o", markersize=3, label=name)
        ceiling = {row["length"]: row["ceiling"] for row in own if row.get("ceiling")}
        if ceiling:
            x = sorted(ceiling)
            y = [ceiling[length] for length in x]
            axes.plot(x, y, color=INK, linestyle="--", linewidth=1, label="ceiling")
        axes.axhline(1, color=INK, linewidth=0.8)
        _logarithmic(axes, "y")
        axes.set_ylabel(f"times as fast as {AGAINST[kind]}")
    legend_above(figure, figure.axes[0])


def _sizes(cells: Sequence[Cell], kind: str, size: str, figure: Figure) -> None:
    axes = figure.subplots()
    for name, colour in _colours(cells, kind).items():
        some = sorted((c for c in cells if c[kind] == name), key=lambda c: int(c[size]))
        y = [1e3 * c["seconds_median"] / (c["batch"] if kind == "loss" else 1) for c in some]
        axes.plot([c[size] for c in some], y, color=colour, marker="o", markersize=3, label=name)
    _logarithmic(axes, "x")
    _logarithmic(axes, "y")
    axes.set_xlabel({"slots": "slots", "catalog": "items"}[size])
    axes.set_ylabel("milliseconds per target" if kind == "loss" else "milliseconds")
    legend_above(figure, axes)


def _panels(
    figure: Figure, rows: Sequence[dict[str, Any]]
) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """A panel over length for each pass that there is, with its rows."""
    passes = [which for which in PASSES if any(row["pass"] == which for row in rows)]
    every = figure.subplots(1, len(passes), squeeze=False)[0]
    for axes, which in zip(every, passes, strict=True):
        axes.set_title(which)
        own = [row for row in rows if row["pass"] == which]
        lengths = sorted({row["length"] for row in own})
        axes.set_xscale("log")
        axes.set_xticks(lengths, [_short(length) for length in lengths], rotation=45)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("events")
        yield axes, own


def _logarithmic(axes: Any, which: str) -> None:
    """A logarithmic axis with plain numbers, more of them where few decades are shown."""
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


def _colours(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, str]:
    names = dict.fromkeys(row[kind] for row in rows)
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def _shown(value: float, key: str) -> float:
    return 1e3 * value if key == "seconds_median" else value / 2**20
