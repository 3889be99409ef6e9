"""What the report's figures share: styles of systems, names, reference lines, and SVG as text.

Lines and letters are drawn in the page's text colour (``currentColor``), so one figure serves
light, dark and print. Colour alone tells nothing: each system has a marker and a kind of line too,
so that a grey print or a reader who sees few colours can follow them. No pyplot: a figure is a
value, with no window and no global state.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from longrec.evaluation.report.contents import ReportRow

COLOURS = (
    "#2f7fc1", "#dd7a35", "#38a169", "#c8507f", "#8a6fc4", "#b3891c", "#2fa3b3", "#a06a4c",
    "#c43d3d", "#7f9c2a", "#5765d8", "#7c8794",
)  # fmt: skip  # of middle lightness: readable on white and on near-black
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
LINES: Sequence[Any] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (8, 2, 2, 2)))
WIDE = 12.0  # inches of a figure that takes the page's whole width
LONGEST = 44  # letters of a name that a figure shows
INK = "#010203"  # stands for the page's text colour until the SVG is text
_STYLE: Any = {  # matplotlib types the keys one by one, too narrowly for a plain dict
    "svg.fonttype": "none",  # letters stay text: selectable, and small files
    "svg.hashsalt": "longrec",  # the same report gives the same bytes
    "text.parse_math": False,  # a name with two dollar signs is a name
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}
_LINE_OF_BOUND: Any = {"ceiling": "--", "bound": ":"}
Rows = Sequence[ReportRow]
Draw = Callable[[Figure], None]


class Style(NamedTuple):
    """How one row is drawn, the same in all figures."""

    color: str
    marker: str
    linestyle: Any


def styles_of(rows: Rows) -> dict[str, Style]:
    """Give every system a colour, a marker and a kind of line; bounds have the text's colour."""
    systems = [row for row in rows if row.is_system]
    styles = {row.name: Style(INK, "", _LINE_OF_BOUND.get(row.kind, "-")) for row in rows}
    for i, row in enumerate(systems):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        styles[row.name] = Style(colour, marker, LINES[i % len(LINES)])
    return styles


def name_of(row: ReportRow) -> str:
    """Shorten a name to what a legend holds, and mark it where training did not converge."""
    name = row.name if len(row.name) <= LONGEST else row.name[: LONGEST - 1] + "…"
    return f"{name} (not converged)" if row.converged is False else name


def error(row: ReportRow, key: str) -> list[list[float]]:
    """Lengths of the interval below and above the value, as matplotlib wants them."""
    value = row.metrics[key]
    low, high = row.interval(key) or (value, value)
    return [[max(value - low, 0.0)], [max(high - value, 0.0)]]


def reference_lines(line: Callable[..., Any], rows: Rows, key: str) -> None:
    """Draw ceilings and bounds by ``axes.axhline`` or ``axes.axvline``."""
    for row in rows:
        if not row.is_system and key in row.metrics:
            kind = _LINE_OF_BOUND[row.kind]
            line(row.metrics[key], color=INK, linestyle=kind, linewidth=1.2, label=name_of(row))


def legend_above(figure: Figure, axes: Any) -> None:
    """One legend above all panels, from what one of them shows."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        widest = max(map(len, labels))
        room = figure.get_figwidth() / 6  # of a figure that takes half the page
        columns = int(room * (3 if widest <= 18 else 2 if widest <= 42 else 1))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)


@contextmanager
def _styled_figure(draw: Draw, height: float, width: float) -> Iterator[Figure]:
    """Draw on a fresh figure (inches); it is to be written within the block."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        yield figure


def svg(draw: Draw, height: float, width: float = 6.0) -> str:
    """Draw on a fresh figure (inches) and give its ``<svg>`` element, fit for an HTML page."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _styled_figure(draw, height, width) as figure:
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # no XML prologue
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace(INK, "currentColor").strip()


def on_white(draw: Draw, height: float, width: float = 6.0) -> dict[str, bytes]:
    """Draw on a fresh figure (inches), dark on white, as files for documents: "svg" and "png"."""
    files = {}
    with _styled_figure(draw, height, width) as figure:
        for form in ("svg", "png"):
            buffer = io.BytesIO()
            dated = {"Date": None} if form == "svg" else None
            figure.savefig(buffer, format=form, facecolor="white", dpi=150, metadata=dated)
            files[form] = buffer.getvalue()
            figure.set_layout_engine("none")  # laid out once is enough
    return files


def with_own_ids(svg: str, prefix: str) -> str:
    """Prefix every id of a figure and its uses, so that several can stand on one page."""
    svg = re.sub(r'(<[^>]*\bid=")', rf"\g<1>{prefix}-", svg)
    return re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}-", svg)
