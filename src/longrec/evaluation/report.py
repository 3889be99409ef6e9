"""A report that is one HTML file: tables, figures and recommendations, nothing fetched, no script.

Names and ids come from logs and are not trusted: every text passes through ``html.escape``, and the
page forbids scripts and requests by its own policy. ``Report`` says what goes in; ``render`` makes
the text; ``write_report`` puts it on disk whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from longrec.errors import DataError
from longrec.evaluation import plots
from longrec.evaluation.contents import Report, ReportRow, UserRecommendations
from longrec.evaluation.style import CSS
from longrec.evaluation.summary import UNFILTERED, Metrics
from longrec.files import write_file
from longrec.metrics import names


def write_report(path: str | Path, report: Report) -> Path:
    """Write the report to ``path``, all of it or nothing, and return the path.

    Raises
    ------
    DataError
        When the file cannot be written.
    """
    path = Path(path)
    text = render(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot write the report: {error.strerror or error}") from error
    return path


def render(report: Report) -> str:
    """Make the whole page as text; the same report gives the same text."""
    key = _headline(report.rows)
    sections = [
        _section("Results", _results(report.rows, key) + _paragraphs(report.protocol)),
        _section("Figures", _figures(report.rows, key), css="figures"),
        _section("By history length", _length_table(report.rows, key)),
        _section("All metrics", _all_metrics(report.rows)),
        _section("Recommendations", "".join(map(_user, report.recommendations))),
        _section("How this was made", _facts(report.facts)),
    ]
    title = escape(report.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{title}</h1></header>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _headline(rows: Sequence[ReportRow]) -> str:
    """Choose the NDCG@10 that leads: unfiltered as soon as one row's targets ask for it."""
    leads = {row.metrics.lead for row in rows if isinstance(row.metrics, Metrics)}
    return UNFILTERED + "ndcg@10" if "unfiltered" in leads else "ndcg@10"


def _section(title: str, body: str, css: str = "") -> str:
    if not body:
        return ""
    return f'<section class="{css}">\n<h2>{escape(title)}</h2>\n{body}\n</section>'


def _results(rows: Sequence[ReportRow], key: str) -> str:
    """Lay out the main table: contenders by rank, then those unconverged, then the bounds."""
    if not rows:
        return ""
    prefix = UNFILTERED if key.startswith(UNFILTERED) else ""
    other = "" if prefix else UNFILTERED
    keys = [key, prefix + "hr@10", prefix + "mrr@10", other + "ndcg@10", other + "hr@10"]
    contenders = [row for row in rows if row.kind in ("model", "baseline")]
    ranked = sorted(
        (row for row in contenders if row.converged is not False),
        key=lambda row: -row.metrics.get(key, -1.0),
    )
    best = {k: max((r.metrics.get(k, -1.0) for r in ranked), default=None) for k in keys}
    head = "".join(
        f'<th scope="col" class="number">{escape(text)}</th>'
        for text in [*(f"{plots.label(k)}" for k in keys), "training", "parameters"]
    )
    body = [
        _result_row(row, keys, best, rank=str(place)) for place, row in enumerate(ranked, start=1)
    ]
    body += [_result_row(row, keys, {}) for row in contenders if row not in ranked]
    limits = [_result_row(row, keys, {}) for row in rows if row not in contenders]
    table = (
        '<div class="scroll"><table class="results"><thead><tr><th scope="col">#</th>'
        f'<th scope="col">model</th>{head}</tr></thead><tbody>{"".join(body)}</tbody>'
    )
    if limits:
        table += (
            '<tbody class="limits"><tr><th colspan="9" scope="rowgroup">What is attainable on this '
            f"data</th></tr>{''.join(limits)}</tbody>"
        )
    notes = "Small figures are 95% bootstrap intervals; bold is the best of its column."
    if any(row.converged is False for row in contenders):
        notes += " Models marked 'not converged' were still improving and rank nothing."
    return f'{table}</table></div><p class="note">{notes}</p>'


def _result_row(
    row: ReportRow, keys: Sequence[str], best: Mapping[str, float | None], rank: str = ""
) -> str:
    badge = {"ceiling": "ceiling", "bound": "bound", "baseline": "baseline"}.get(row.kind, "")
    marks = f' <span class="badge">{badge}</span>' if badge else ""
    if row.converged is False:
        marks += ' <span class="badge warn">not converged</span>'
    cells = "".join(_metric_cell(row, key, best.get(key)) for key in keys)
    seconds = "" if row.train_seconds is None else duration(row.train_seconds)
    parameters = "" if row.parameters is None else f"{row.parameters:,}"
    return (
        f'<tr class="{row.kind}"><td class="rank">{rank}</td>'
        f'<th scope="row">{escape(row.name)}{marks}</th>{cells}'
        f'<td class="number">{seconds}</td><td class="number">{parameters}</td></tr>'
    )


def _metric_cell(row: ReportRow, key: str, best: float | None = None) -> str:
    if key not in row.metrics:
        return '<td class="number">&ndash;</td>'
    value = f"{row.metrics[key]:.4f}"
    if best is not None and row.metrics[key] == best:
        value = f"<strong>{value}</strong>"
    if isinstance(row.metrics, Metrics):
        low, high = row.metrics.intervals[key]
        value += f'<span class="interval">{low:.4f}&ndash;{high:.4f}</span>'
    return f'<td class="number">{value}</td>'


def _length_table(rows: Sequence[ReportRow], key: str) -> str:
    """Tabulate the leading metric by the number of events before the target."""
    measured = [
        (row, {bucket.low: bucket for bucket in row.metrics.buckets})
        for row in rows
        if isinstance(row.metrics, Metrics)
    ]
    every = {low: bucket for _, buckets in measured for low, bucket in buckets.items()}
    if not every:
        return ""
    starts = sorted(every)
    head = "".join(
        f'<th scope="col" class="number">{every[low].label}'
        f'<span class="interval">{every[low].targets:,} targets</span></th>'
        for low in starts
    )
    body = ""
    for row, buckets in measured:
        cells = ""
        for low in starts:
            text = f"{buckets[low].estimates[key]:.4f}" if low in buckets else "&ndash;"
            if low in buckets:
                ends = buckets[low].intervals[key]
                text += f'<span class="interval">{ends[0]:.4f}&ndash;{ends[1]:.4f}</span>'
            cells += f'<td class="number">{text}</td>'
        body += f'<tr class="{row.kind}"><th scope="row">{escape(row.name)}</th>{cells}</tr>'
    return (
        f'<p class="note">{escape(plots.label(key))} by the number of events before the target.</p>'
        f'<div class="scroll"><table><thead><tr><th scope="col">model</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _all_metrics(rows: Sequence[ReportRow]) -> str:
    parts = ""
    for prefix, title in (("", "Seen items filtered"), (UNFILTERED, "Unfiltered")):
        keys = [prefix + name for name in names()]
        shown = [row for row in rows if any(key in row.metrics for key in keys)]
        if not shown:
            continue
        head = "".join(f'<th scope="col" class="number">{name.upper()}</th>' for name in names())
        body = "".join(
            f'<tr class="{row.kind}"><th scope="row">{escape(row.name)}</th>'
            + "".join(_metric_cell(row, key) for key in keys)
            + "</tr>"
            for row in shown
        )
        parts += (
            f'<h3>{title}</h3><div class="scroll"><table class="dense"><thead><tr>'
            f'<th scope="col">model</th>'
            f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    return parts


def _figures(rows: Sequence[ReportRow], key: str) -> str:
    name = plots.label(key)
    drawn = {
        f"{name} by model, with 95% intervals": plots.accuracy_by_model(rows, key),
        f"{name} by history length": plots.accuracy_by_length(rows, key),
        "Training: loss and validation against time": plots.training_curves(rows),
        f"{name} against training time": plots.accuracy_against_time(rows, key),
    }
    return "".join(
        f'<figure role="img" aria-label="{escape(caption)}">{plots.with_own_ids(svg, f"fig{i}")}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for i, (caption, svg) in enumerate(drawn.items(), start=1)
        if svg
    )


def _user(entry: UserRecommendations) -> str:
    """Lay out one user: the recent history, then the models' lists side by side."""
    user, history, by_model = entry
    chips = "".join(f"<li>{escape(str(item))}</li>" for item in history)
    depth = max((len(items) for items in by_model.values()), default=0)
    head = "".join(f'<th scope="col">{escape(model)}</th>' for model in by_model)
    body = ""
    for place in range(depth):
        cells = ""
        for items in by_model.values():
            if place < len(items):
                item, score = items[place]
                cells += f'<td>{escape(str(item))}<span class="score">{score:.3f}</span></td>'
            else:
                cells += "<td></td>"
        body += f'<tr><td class="rank">{place + 1}</td>{cells}</tr>'
    return (
        f'<article class="user"><h3>User {escape(str(user))}</h3>'
        f'<p class="note">Most recent events, oldest first</p><ol class="chips">{chips}</ol>'
        f'<div class="scroll"><table class="lists"><thead><tr><th scope="col">#</th>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div></article>"
    )


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    lines = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(text))}</dd>" for name, text in facts.items()
    )
    return f"<dl>{lines}</dl>"


def _paragraphs(text: str) -> str:
    blocks = [block.strip() for block in text.split("\n\n") if block.strip()]
    return "".join(f'<p class="protocol">{escape(block)}</p>' for block in blocks)


def duration(seconds: float) -> str:
    """Write seconds for people: "0.4 s", "35 s", "42 min", "1 h 05 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
