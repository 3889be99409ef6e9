"""A report that is one HTML file: tables, figures and recommendations, nothing fetched, no script.

Names and ids come from logs and are not trusted: the template escapes every text, and the page
forbids scripts and requests by its own policy. ``Report`` says what goes in; ``render`` makes the
text from ``page.html`` and ``page.css``; ``write_report`` puts it on disk whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from longrec.core.errors import DataError
from longrec.core.files import write_file
from longrec.core.format import duration, size
from longrec.core.templates import page_template
from longrec.evaluation.beyond_accuracy import NAMES
from longrec.evaluation.metrics import CUTOFFS, names
from longrec.evaluation.report import figures
from longrec.evaluation.report.contents import (
    Cost,
    Report,
    ReportRow,
    best_epoch,
    by_value,
)
from longrec.evaluation.report.drawing import with_own_ids
from longrec.evaluation.report.markdown import render_markdown
from longrec.evaluation.report.opening import opening
from longrec.evaluation.summary import LEADING, SERVED, TITLES, UNFILTERED, Bucket, Metrics, label

RESULT_KEYS = (
    *(SERVED + name for name in ("ndcg@10", "hr@10", "mrr@10")),
    *("ndcg@10", UNFILTERED + "ndcg@10"),
)
"""Columns of the first table."""


def write_report(path: str | Path, report: Report) -> Path:
    """Write the report to ``path``, all of it or nothing, and return the path.

    A path that ends in .md gets Markdown, any other the HTML page.

    Raises
    ------
    DataError
        When the file cannot be written.
    """
    path = Path(path)
    is_markdown = path.suffix.lower() == ".md"
    text = render_markdown(report, RESULT_KEYS) if is_markdown else render(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot write the report: {error.strerror or error}") from error
    return path


def render(report: Report) -> str:
    """Make the whole page as text; the same report gives the same text."""
    key = LEADING
    rows = by_value(report.rows, key)
    systems = [row for row in rows if row.is_system]
    order = [row.name for row in systems]
    pairs = {(pair.a, pair.b): pair for pair in report.pairs}
    pairs |= {(pair.b, pair.a): pair.reversed() for pair in report.pairs}
    length_columns, by_length = _by_length(rows)
    return _template().render(
        report=report,
        key=key,
        opening=opening(report, key),
        result_keys=RESULT_KEYS,
        rows=rows,
        systems=systems,
        order=order,
        bounds=[row for row in rows if not row.is_system],
        best=best_values(systems),
        figures=list(_figures(report.rows, key)),
        pairs=pairs,
        ahead=[pairs[order[0], other] for other in order[1:] if (order[0], other) in pairs],
        costly=[row for row in systems if row.cost != Cost()],
        length_columns=length_columns,
        by_length=by_length,
        memory=list(_memory(rows)),
        all_metrics=list(_all_metrics(rows)),
    )


def best_values(systems: Sequence[ReportRow]) -> dict[str, float | None]:
    """The highest value of each key of the results."""
    return {
        key: max((row.metrics[key] for row in systems if key in row.metrics), default=None)
        for key in RESULT_KEYS
    }


@cache
def _template() -> Template:
    filters = {"label": label, "duration": duration, "size": size}
    return page_template("longrec.evaluation", "report", "page.html", filters)


def _figures(rows: Sequence[ReportRow], key: str) -> Iterator[dict[str, Any]]:
    """The figures that there is something to draw in; wide ones take the page's whole width."""
    name = label(key)
    front = "hollow: not converged; line: no other has as much for less"
    best = f"; the {figures.MOST_LINES} best systems" if _many(rows) else ""
    light = "light: baselines; hatched: not converged"
    drawn = {
        f"{name} by model, with 95% intervals ({light})": figures.accuracy_by_model(rows, key),
        f"{name} by history length{best}": figures.accuracy_by_length(rows, key),
        f"Training: loss and validation against time{best}": figures.training_curves(rows, key),
        f"{name} against cost ({front})": figures.accuracy_against_cost(rows, key),
        f"Use of the memory bank by epoch{best}": figures.memory_usage(rows, key),
    }
    yield from on_page(drawn)


def on_page(drawn: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
    """Figures by their captions, as `figure_of` of parts.html takes them."""
    for number, (caption, svg) in enumerate(drawn.items(), start=1):
        if svg:
            width, height = map(float, svg[svg.index('viewBox="') :].split('"')[1].split()[2:])
            svg = Markup(with_own_ids(svg, f"fig{number}"))
            yield {"caption": caption, "svg": svg, "wide": width > 3 * height}


def _many(rows: Sequence[ReportRow]) -> bool:
    """Whether there are more systems than a figure of lines shows."""
    return sum(row.is_system for row in rows) > figures.MOST_LINES


def _by_length(
    rows: Sequence[ReportRow],
) -> tuple[list[tuple[str, str]], list[tuple[ReportRow, list[Bucket | None]]]]:
    """Columns, a range of lengths and its number of targets, and each row's buckets in them."""
    own = [
        (row, {bucket.low: bucket for bucket in row.metrics.buckets})
        for row in rows
        if isinstance(row.metrics, Metrics)
    ]
    every = {low: bucket for _, buckets in own for low, bucket in buckets.items()}
    columns = [(every[low].label, f"{every[low].targets:,} targets") for low in sorted(every)]
    return columns, [(row, [buckets.get(low) for low in sorted(every)]) for row, buckets in own]


def _memory(rows: Sequence[ReportRow]) -> Iterator[tuple[str, Sequence[float], Any]]:
    """How evenly memory banks were used: name, at the best validation, at every validation."""
    for row in rows:
        log = row.memory_log()
        if log is not None:
            yield row.name, list(best_epoch(log).values()), log.rows()


def _all_metrics(
    rows: Sequence[ReportRow],
) -> Iterator[tuple[str, dict[str, str], list[ReportRow]]]:
    """Each reading of ranks, and the served lists: title, heads by key, the rows that have some."""
    parts = {
        title: {prefix + name: name.upper() for name in names()} for prefix, title in TITLES.items()
    }
    parts["lists as served: coverage, novelty (bits), Gini and popularity bias"] = {
        f"{SERVED}{name}@{k}": f"{name.replace('_', ' ')}@{k}" for k in CUTOFFS for name in NAMES
    }
    for title, heads in parts.items():
        measured = [row for row in rows if any(key in row.metrics for key in heads)]
        if measured:
            yield title, heads, measured
