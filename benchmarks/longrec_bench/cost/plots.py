"""Cost over length as figures: time, peak memory, and ratios beside their ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from longrec.evaluation.report.drawing import COLOURS, INK, WIDE, legend_above, on_white
from longrec_bench.analysis import ratios
from longrec_bench.cost.systems import FREE, PEERS
from longrec_bench.measurement import Row
from longrec_bench.plan import PASSES

HEIGHT = 3.6
LEGEND_LINE, NAMES = 0.19, 6
"""Inches of a line of the legend above, and names in it: a figure of many systems is taller."""
DASHES = ("-", "--", ":", "-.")
"""Of those that have the same colour."""
UNITS = {"length": "events", "slots": "slots", "catalog": "items"}
Value = Callable[[Row], float]


def figures(cells: Sequence[Row]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each figure's name, and its bytes by format ("svg", "png")."""
    plots = []
    for kind, peer in PEERS.items():
        own = [cell for cell in cells if kind in cell]
        known = [cell for cell in own if cell["peak_bytes"] and cell["pass"] != "step"]
        compared = [row for row in ratios(cells) if kind in row and row["pass"] != "step"]
        plots += [
            (f"{kind}-time", kind, "length", own, "milliseconds", _milliseconds),
            (f"{kind}-memory", kind, "length", known, "peak memory, MiB", _mebibytes),
            (f"{kind}-ratio", kind, "length", compared, f"times as fast as {peer}", _ratio),
        ]
    banks, losses = ([cell for cell in cells if kind in cell] for kind in ("bank", "loss"))
    plots.append(("bank", "bank", "slots", banks, "milliseconds", _milliseconds))
    plots.append(("loss", "loss", "catalog", losses, "milliseconds per target", _per_target))
    for figure, kind, size, rows, label, value in plots:
        if rows:
            # Those of one kind have the same colours in all figures.
            names = dict.fromkeys(cell[kind] for cell in cells if kind in cell)
            colours = {
                name: (COLOURS[n % len(COLOURS)], DASHES[n // len(COLOURS) % len(DASHES)])
                for n, name in enumerate(names)
            }
            panels = [rows]
            if size == "length":
                panels = [[row for row in rows if row["pass"] == which] for which in PASSES]
                panels = [own for own in panels if own]
            width = WIDE if len(panels) > 1 or size != "length" else WIDE / 2
            draw = partial(_draw, panels, kind, size, colours, label, value)
            yield figure, on_white(draw, HEIGHT + LEGEND_LINE * (len(names) // NAMES), width)


def _draw(
    panels: Sequence[Sequence[Row]],
    kind: str,
    size: str,
    colours: dict[str, tuple[str, str]],
    label: str,
    value: Value,
    figure: Figure,
) -> None:
    """Panels of a line for each name over what grows, both axes logarithmic."""
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, rows in zip(drawn, panels, strict=True):
        sizes = sorted({row[size] for row in rows})
        axes.set(xlabel=UNITS[size], ylabel=label, xscale="log", yscale="log")
        axes.set_xticks(sizes, [_short(one) for one in sizes], rotation=45)
        axes.xaxis.set_minor_formatter(NullFormatter())
        for name, (colour, dash) in colours.items():
            own = sorted((row for row in rows if row[kind] == name), key=lambda row: int(row[size]))
            if not own or (value is _ratio and name == FREE):
                continue
            x = [row[size] for row in own]
            drawn_as = {"color": colour, "linestyle": dash, "marker": "o", "markersize": 3}
            axes.plot(x, list(map(value, own)), label=name, **drawn_as)
            if value is _milliseconds and size == "length":
                low, high = ([1e3 * row[k] for row in own] for k in ("seconds_min", "seconds_max"))
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        if size == "length":
            axes.set_title(rows[0]["pass"])
        if value is _ratio:
            axes.axhline(1, color=INK, linewidth=0.8)
            ceiling = {row[size]: row["ceiling"] for row in rows if row.get("ceiling")}
            x, y = sorted(ceiling), [ceiling[length] for length in sorted(ceiling)]
            axes.plot(x, y, color=INK, linestyle="--", linewidth=1, label="ceiling" if x else "")
        low, high = axes.yaxis.get_view_interval()
        subs = (1.0,) if high > 300 * low else (1.0, 2.0, 5.0)  # more numbers over few decades
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.9g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    legend_above(figure, drawn[0])


def _short(size: int) -> str:
    """65536 -> "64k", 1048576 -> "1M", 3000 -> "3,000"."""
    for bits, unit in ((20, "M"), (10, "k")):
        if size % (1 << bits) == 0:
            return f"{size >> bits}{unit}"
    return f"{size:,}"


def _milliseconds(row: Row) -> float:
    return 1e3 * float(row["seconds_median"])


def _per_target(row: Row) -> float:
    return _milliseconds(row) / float(row["batch"])


def _mebibytes(row: Row) -> float:
    return float(row["peak_bytes"]) / 2**20


def _ratio(row: Row) -> float:
    return float(row["ratio"])
