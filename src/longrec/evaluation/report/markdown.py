"""A report as Markdown: the same first sentences and tables, for a README or a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from longrec.core.format import duration, size
from longrec.evaluation.report.contents import MEMORY, Report, ReportRow, by_value
from longrec.evaluation.report.opening import opening
from longrec.evaluation.report.pairs import Pair
from longrec.evaluation.summary import LEADING, Metrics, label

_USE_HEADS = ("model", "share of slots used", "entropy / log M", "KL to uniform")


def render_markdown(report: Report, keys: Sequence[str]) -> str:
    """Make the whole report as text, without figures.

    Parameters
    ----------
    report
    keys
        Metrics of the first table.
    """
    rows = by_value(report.rows, LEADING)
    parts = [
        f"# {_plain(report.title)}",
        *(f"**{n.capitalize()}.** {_plain(text)}" for n, text in opening(report, LEADING).items()),
        *_section("Results", _table(*_results(rows, keys))),
        *_section("Failed or not run", _list(report.failures.items())),
        *_section("Pairs compared", _table(*_pairs(report.pairs))),
        *_section("By history length", _table(*_by_length(rows))),
        *_section("Use of the memory bank", _table(_USE_HEADS, list(_memory(rows)))),
        *_section("How this was made", _plain(report.statement), _list(report.facts.items())),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, *texts: str) -> list[str]:
    """A heading and texts; nothing where all are empty."""
    return [f"## {title}", *texts] if any(texts) else []


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    every = (list(map(_plain, columns)), ["---"] * len(columns), *(map(_plain, x) for x in lines))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in every)


def _list(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {_plain(name)}: {_plain(text)}" for name, text in pairs)


def _plain(text: str) -> str:
    """Text of others that becomes neither markup nor a new line."""
    text = " ".join(text.split())
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text


def _results(rows: Sequence[ReportRow], keys: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    lines = []
    for place, row in enumerate(rows, start=1):
        cost = row.cost
        time = "" if cost.seconds is None else duration(cost.seconds)
        epochs = "" if cost.epochs is None else f"{cost.epochs:.3g}"
        kept = cost.keeps if cost.kept_bytes is None else size(cost.kept_bytes)
        ended = "not converged" if row.converged is False else row.end
        seeds = f" ({row.seeds} seeds)" if row.seeds > 1 else ""
        lines.append(
            [
                str(place) if row.is_system else "",
                row.name + seeds + (f", {row.note}" if row.note else ""),
                row.policy,
                *(_metric(row, key) for key in keys),
                time,
                epochs,
                "" if cost.peak_bytes is None else size(cost.peak_bytes),
                kept,
                ended if row.is_system else row.kind,
            ]
        )
    head = ["#", "model", "seen items", *map(label, keys), "training", "epochs", "peak memory"]
    return [*head, "kept of a user", "ended"], lines


def _metric(row: ReportRow, key: str) -> str:
    """A metric with its interval, and the spread over seeds."""
    if key not in row.metrics:
        return ""
    ends = row.interval(key)
    text = f"{row.metrics[key]:.4f}"
    text += "" if ends is None else f" ({ends[0]:.4f} to {ends[1]:.4f})"
    return text + (f" ± {row.spread[key]:.4f}" if key in row.spread else "")


def _pairs(pairs: Sequence[Pair]) -> tuple[list[str], list[list[str]]]:
    lines = []
    for pair in pairs:
        found, p = pair.difference, pair.p_value
        told = "not tested" if p is None else f"{p:.3f}"
        ends = f"{found.low:+.4f} to {found.high:+.4f}"
        lines.append([f"{pair.a} minus {pair.b}", f"{found.mean:+.4f}", ends, told])
    return [f"difference in {label(LEADING)}", "mean", "95% interval", "p (Holm)"], lines


def _by_length(rows: Sequence[ReportRow]) -> tuple[list[str], list[list[str]]]:
    own = [(row, row.metrics.buckets) for row in rows if isinstance(row.metrics, Metrics)]
    every = {bucket.low: bucket for _, buckets in own for bucket in buckets}
    heads = [f"{every[low].label} events ({every[low].targets:,} targets)" for low in sorted(every)]
    lines = []
    for row, buckets in own:
        values = {bucket.low: f"{bucket.estimates[LEADING]:.4f}" for bucket in buckets}
        lines.append([row.name, *(values.get(low, "") for low in sorted(every))])
    return [f"{label(LEADING)}, by history length", *heads], lines


def _memory(rows: Sequence[ReportRow]) -> Iterator[list[str]]:
    for row in rows:
        use = row.memory_use()
        if use:
            yield [row.name, *(f"{use[name]:.4f}" for name in MEMORY)]
