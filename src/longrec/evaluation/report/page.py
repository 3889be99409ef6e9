"""A report that is one HTML file: tables, figures and recommendations, nothing fetched, no script.

Names and ids come from logs and are not trusted: every text passes through ``html.escape``, and the
page forbids scripts and requests by its own policy. ``Report`` says what goes in; ``render`` makes
the text; ``write_report`` puts it on disk whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from longrec.core.errors import DataError
from longrec.core.files import write_file
from longrec.evaluation.report import plots, tables
from longrec.evaluation.report.contents import Report, ReportRow, UserRecommendations
from longrec.evaluation.report.costs import accuracy_against_cost
from longrec.evaluation.report.drawing import label, with_own_ids
from longrec.evaluation.report.style import CSS
from longrec.evaluation.summary import UNFILTERED, Metrics


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
    key = headline(report.rows)
    rows = report.rows
    sections = [
        _section("Results", tables.results(rows, key) + _paragraphs(report.protocol)),
        _section("Failed or not run", tables.failures(report.failures)),
        _section("Figures", _figures(rows, key), css="figures"),
        _section("Pairs compared", tables.pair_matrix(rows, report.pairs, key)),
        _section("Cost", tables.costs(rows, key)),
        _section("By history length", tables.lengths(rows, key)),
        _section("Use of the memory bank", tables.memory(rows, key)),
        _section("All metrics", tables.all_metrics(rows, key)),
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


def headline(rows: Sequence[ReportRow]) -> str:
    """Choose the NDCG@10 that leads: unfiltered as soon as one row's targets ask for it."""
    leads = {row.metrics.lead for row in rows if isinstance(row.metrics, Metrics)}
    return UNFILTERED + "ndcg@10" if "unfiltered" in leads else "ndcg@10"


def _section(title: str, body: str, css: str = "") -> str:
    if not body:
        return ""
    return f'<section class="{css}">\n<h2>{escape(title)}</h2>\n{body}\n</section>'


def _figures(rows: Sequence[ReportRow], key: str) -> str:
    name = label(key)
    dearly = "hollow: not converged; line: no other has as much for less"
    drawn = {
        f"{name} by model, with 95% intervals": plots.accuracy_by_model(rows, key),
        f"{name} by history length": plots.accuracy_by_length(rows, key),
        "Training: loss and validation against time": plots.training_curves(rows),
        f"{name} against cost ({dearly})": accuracy_against_cost(rows, key),
        "Use of the memory bank by epoch": plots.memory_usage(rows),
    }
    return "".join(
        f'<figure role="img" aria-label="{escape(caption)}"{_wide(svg)}>'
        f"{with_own_ids(svg, f'fig{i}')}<figcaption>{escape(caption)}</figcaption></figure>"
        for i, (caption, svg) in enumerate(drawn.items(), start=1)
        if svg
    )


def _wide(svg: str) -> str:
    """Figures that are much wider than high take the page's whole width."""
    width, height = map(float, svg[svg.index('viewBox="') :].split('"')[1].split()[2:])
    return ' class="wide"' if width > 3 * height else ""


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
