"""The report's tables, as HTML text; every name in them passes through ``html.escape``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from longrec.core.format import duration, size
from longrec.evaluation.metrics import names
from longrec.evaluation.report.contents import MEMORY, Cost, Pair, ReportRow
from longrec.evaluation.report.drawing import label
from longrec.evaluation.summary import UNFILTERED, Metrics

Rows = Sequence[ReportRow]
_NOTHING = '<td class="number">&ndash;</td>'


def results(rows: Rows, key: str) -> str:
    """The main table: contenders by rank, then those unconverged, then the bounds."""
    if not rows:
        return ""
    prefix = UNFILTERED if key.startswith(UNFILTERED) else ""
    other = "" if prefix else UNFILTERED
    keys = [key, prefix + "hr@10", prefix + "mrr@10", other + "ndcg@10", other + "hr@10"]
    ranked = [row for row in ordered(rows, key) if row.ranks]
    apart = [row for row in ordered(rows, key) if row.contends and not row.ranks]
    limits = [row for row in rows if not row.contends]
    best = {k: max((r.metrics.get(k, -1.0) for r in ranked), default=None) for k in keys}
    lines = [_result(row, keys, best, str(place)) for place, row in enumerate(ranked, start=1)]
    lines += [_result(row, keys, {}) for row in apart]
    body = f"<tbody>{''.join(lines)}</tbody>"
    if limits:
        body += (
            '<tbody class="limits"><tr><th colspan="8" scope="rowgroup">What is attainable on this '
            f"data</th></tr>{''.join(_result(row, keys, {}) for row in limits)}</tbody>"
        )
    notes = "Small figures are 95% bootstrap intervals; bold is the best of its column."
    if apart:
        notes += " Models marked 'not converged' were still improving and rank nothing."
    if any(row.seeds > 1 for row in rows):
        notes += " &plusmn; is the standard deviation over the seeds."
    head = ["#", "model", *map(label, keys), "training"]
    return _table(head, body, "results") + f'<p class="note">{notes}</p>'


def ordered(rows: Rows, key: str) -> list[ReportRow]:
    """Rows that rank, best first; then the unconverged ones; then bounds in their own order."""
    return sorted(
        rows,
        key=lambda row: (
            (0, -row.metrics.get(key, -1.0))
            if row.ranks
            else (1, -row.metrics.get(key, -1.0))
            if row.contends
            else (2, 0.0)
        ),
    )


def _result(
    row: ReportRow, keys: Sequence[str], best: Mapping[str, float | None], rank: str = ""
) -> str:
    badge = "" if row.kind == "model" else f' <span class="badge">{row.kind}</span>'
    if row.seeds > 1:
        badge += f' <span class="badge">{row.seeds} seeds</span>'
    if row.converged is False:
        badge += ' <span class="badge warn">not converged</span>'
    cells = "".join(_metric(row, key, best.get(key)) for key in keys)
    return (
        f'<tr class="{row.kind}"><td class="rank">{rank}</td>'
        f'<th scope="row">{escape(row.name)}{badge}</th>{cells}'
        f"{_number(duration(row.cost.seconds) if row.cost.seconds is not None else None)}</tr>"
    )


def _metric(row: ReportRow, key: str, best: float | None = None) -> str:
    if key not in row.metrics:
        return _NOTHING
    value = f"{row.metrics[key]:.4f}"
    if best is not None and row.metrics[key] == best:
        value = f"<strong>{value}</strong>"
    ends = row.interval(key)
    if ends is not None:
        value += _ends(*ends)
    if key in row.spread:
        value += f'<span class="interval">&plusmn; {row.spread[key]:.4f}</span>'
    return f'<td class="number">{value}</td>'


def pair_matrix(rows: Rows, pairs: Sequence[Pair], key: str) -> str:
    """Differences between rows that rank, with p-values; below them those of the others."""
    found = {(pair.a, pair.b): pair for pair in pairs}
    either = found | {(b, a): Pair(b, a, d.reversed(), p) for a, b, d, p in pairs}
    ranked = [row.name for row in ordered(rows, key) if row.ranks]
    apart = [row.name for row in ordered(rows, key) if row.contends and not row.ranks]
    text = ""
    if any(pair.p_value is not None for pair in pairs):
        text += (
            f'<p class="note">{escape(label(key))}, row minus column, over the same targets: mean, '
            "95% interval (paired bootstrap over users), and p corrected for the number of pairs "
            "(Holm). Bold: p below 0.05.</p>" + _matrix(ranked[:-1], ranked[1:], found)
        )
    if pairs and apart:
        text += (
            '<h3>Not converged</h3><p class="note">Row minus column; more training may change '
            "these, so that they have no p-value.</p>" + _matrix(apart, ranked + apart, either)
        )
    return text


def _matrix(
    lines: Sequence[str], columns: Sequence[str], pairs: Mapping[tuple[str, str], Pair]
) -> str:
    def cell(line: str, column: str) -> str:
        if (line, column) not in pairs:
            return "<td></td>"
        _, _, difference, p = pairs[line, column]
        text = f"{difference.mean:+.4f}"
        if p is not None and p < 0.05:
            text = f"<strong>{text}</strong>"
        text += _ends(difference.low, difference.high, "+")
        if p is not None:
            text += f'<span class="interval">p {p:.3f}</span>'
        return f'<td class="number">{text}</td>'

    body = "".join(
        f'<tr><th scope="row">{escape(line)}</th>'
        + "".join(cell(line, column) for column in columns)
        + "</tr>"
        for line in lines
    )
    return _table(["", *columns], f"<tbody>{body}</tbody>")


def costs(rows: Rows, key: str) -> str:
    """What training took and what serving keeps, for rows of which something is known."""
    shown = [row for row in ordered(rows, key) if row.contends and row.cost != Cost()]
    if not shown:
        return ""
    body = ""
    for row in shown:
        cost = row.cost
        state = "" if cost.state_bytes is None else size(cost.state_bytes)
        keeps = f'<span class="interval">{escape(cost.keeps)}</span>' if cost.keeps else ""
        cells = [
            None if cost.seconds is None else duration(cost.seconds),
            None if cost.epochs is None else f"{cost.epochs:.3g}",
            None if cost.events_per_second is None else f"{cost.events_per_second:,.0f}",
            None if cost.peak_bytes is None else size(cost.peak_bytes),
            None if cost.parameters is None else f"{cost.parameters:,}",
            state + keeps,
        ]
        body += (
            f'<tr class="{row.kind}"><th scope="row">{escape(row.name)}</th>'
            f"{''.join(map(_number, cells))}<td>{escape(row.ended)}</td></tr>"
        )
    head = [
        *("model", "training", "epochs", "events per second", "peak memory", "parameters"),
        *("kept of a user", "ended"),
    ]
    note = "Training time includes validation."
    if any(row.cost.peak_bytes for row in shown):
        note += (
            " Peak memory is the most that the training process held, Python and torch included."
        )
    return _table(head, f"<tbody>{body}</tbody>") + f'<p class="note">{note}</p>'


def lengths(rows: Rows, key: str) -> str:
    """The leading metric by the number of events before the target."""
    measured = [
        (row, {bucket.low: bucket for bucket in row.metrics.buckets})
        for row in ordered(rows, key)
        if isinstance(row.metrics, Metrics)
    ]
    every = {low: bucket for _, buckets in measured for low, bucket in buckets.items()}
    if not every:
        return ""
    starts = sorted(every)
    body = ""
    for row, buckets in measured:
        cells = "".join(
            _number(f"{buckets[low].estimates[key]:.4f}" + _ends(*buckets[low].intervals[key]))
            if low in buckets
            else _NOTHING
            for low in starts
        )
        body += f'<tr class="{row.kind}"><th scope="row">{escape(row.name)}</th>{cells}</tr>'
    head = ["model", *(f"{every[low].label}\n{every[low].targets:,} targets" for low in starts)]
    note = f"{escape(label(key))} by the number of events before the target."
    return f'<p class="note">{note}</p>' + _table(head, f"<tbody>{body}</tbody>")


def all_metrics(rows: Rows, key: str) -> str:
    """Every metric of every row, filtered and unfiltered."""
    text = ""
    for prefix, title in (("", "Seen items filtered"), (UNFILTERED, "Unfiltered")):
        keys = [prefix + name for name in names()]
        shown = [row for row in ordered(rows, key) if any(key in row.metrics for key in keys)]
        if not shown:
            continue
        body = "".join(
            f'<tr class="{row.kind}"><th scope="row">{escape(row.name)}</th>'
            + "".join(_metric(row, key) for key in keys)
            + "</tr>"
            for row in shown
        )
        head = ["model", *(name.upper() for name in names())]
        text += f"<h3>{title}</h3>" + _table(head, f"<tbody>{body}</tbody>", "dense")
    return text


def memory(rows: Rows, key: str) -> str:
    """How evenly memory banks were used: at the weights that were kept, and at every validation."""
    logs = {
        row: row.log.drop_nulls(list(MEMORY))
        for row in ordered(rows, key)
        if row.log is not None and set(MEMORY) <= set(row.log.columns)
    }
    logs = {row: log for row, log in logs.items() if len(log)}
    if not logs:
        return ""
    columns = ["epoch", *MEMORY, "validation"]
    head = [
        "epoch",
        "share of slots used",
        "entropy / log M",
        "KL to uniform",
        "validation NDCG@10",
    ]

    def cells(row: Sequence[float]) -> str:
        return _number(f"{row[0]:.0f}") + "".join(_number(f"{value:.4f}") for value in row[1:])

    kept = every = ""
    for row, log in logs.items():
        best = log.sort("validation", descending=True, maintain_order=True).select(columns).row(0)
        kept += f'<tr><th scope="row">{escape(row.name)}</th>{cells(best)}</tr>'
        lines = "".join(f"<tr>{cells(line)}</tr>" for line in log.select(columns).rows())
        every += (
            f"<details><summary>{escape(row.name)}, by epoch</summary>"
            + _table(head, f"<tbody>{lines}</tbody>", "dense")
            + "</details>"
        )
    note = "Measured while the validation targets were ranked; here at the weights that were kept."
    return _table(["model", *head], f"<tbody>{kept}</tbody>") + f'<p class="note">{note}</p>{every}'


def failures(errors: Mapping[str, str]) -> str:
    """What went wrong with models that have no row."""
    lines = "".join(f"<dt>{escape(n)}</dt><dd>{escape(text)}</dd>" for n, text in errors.items())
    return f"<dl>{lines}</dl>" if lines else ""


def _table(head: Iterable[str], body: str, css: str = "") -> str:
    """A table that scrolls alone; the head's first cells name rows, the others stand to the right.

    A second line of a head's cell is small.
    """
    cells = ""
    for text in head:
        name, _, small = text.partition("\n")
        under = f'<span class="interval">{escape(small)}</span>' if small else ""
        kind = "" if name in ("", "#", "model", "ended") else ' class="number"'
        cells += f'<th scope="col"{kind}>{escape(name)}{under}</th>'
    return (
        f'<div class="scroll"><table class="{css}"><thead><tr>{cells}</tr></thead>{body}'
        "</table></div>"
    )


def _number(text: str | None) -> str:
    return f'<td class="number">{text}</td>' if text else _NOTHING


def _ends(low: float, high: float, sign: str = "") -> str:
    """An interval, small."""
    dash = " to " if sign else "&ndash;"
    return f'<span class="interval">{low:{sign}.4f}{dash}{high:{sign}.4f}</span>'
