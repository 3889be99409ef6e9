"""A report's first sentences: which data, which question, who is ahead, and what is undecided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from longrec.evaluation.report.contents import Report, ReportRow, by_value
from longrec.evaluation.report.pairs import Pair
from longrec.evaluation.statement import INFORMATION
from longrec.evaluation.summary import Metrics, label

_READS = {
    "leave-one-out": "what stands before a user's last event",
    "global-time": "what stands before a user's first event after the test cut",
    "prequential": "what stands before each event of the last part of a long history",
}
_CANDIDATES = {
    True: "the whole catalog but what the user has seen, as each system serves",
    False: "the whole catalog, with what the user has seen, as each system serves",
    None: "the whole catalog, by each system's own policy on what the user has seen, as it serves",
}
_SHOWN = 3  # pairs that are told one by one


def opening(report: Report, key: str) -> dict[str, str]:
    """Say in plain words what the report found.

    Parameters
    ----------
    report
    key
        The metric that leads.

    Returns
    -------
    dict
        Of "data", "question", "answer" and "undecided" those that there is something to say of.
    """
    rows = by_value([row for row in report.rows if key in row.metrics], key)
    systems = [row for row in rows if row.is_system]
    parts = {
        "data": _data(report, systems),
        "question": _question(systems, key),
        "answer": " ".join(_answer(rows, systems, report.pairs, key)),
        "undecided": " ".join(_undecided(report, systems)),
    }
    return {name: text for name, text in parts.items() if text}


def _measured(systems: Sequence[ReportRow]) -> Metrics | None:
    """The metrics of one of them; all are of the same targets."""
    return next((row.metrics for row in systems if isinstance(row.metrics, Metrics)), None)


def _data(report: Report, systems: Sequence[ReportRow]) -> str:
    metrics = _measured(systems)
    text = f"{report.data.rstrip('.')}. " if report.data else ""
    if metrics is None:
        return text.strip()
    users, targets = metrics.counts["users"], metrics.counts["targets"]
    each = "one target each" if users == targets else f"{targets:,} targets"
    return f"{text}Measured on {users:,} users, {each} ({metrics.split})."


def _question(systems: Sequence[ReportRow], key: str) -> str:
    metrics = _measured(systems)
    if metrics is None:
        return ""
    reads = _READS[metrics.protocol]
    if metrics.split == "validation":
        reads = "what stands before a validation event"
    k = key.partition("@")[2]
    policies = {row.policy for row in systems if row.policy}
    policy = metrics.exclude_seen if len(policies) < 2 else None
    return (
        f"Which item comes next? Each system reads {reads} and nothing else, its time neither "
        f"(information: {INFORMATION}), and ranks {_CANDIDATES[policy]} (candidates). Events of "
        "one time stand in the log's own order, and of equal scores the smaller item index comes "
        f"first (ties). {label(key)}, is the mean over targets of 1 where the item that came next "
        f"is first in the list, less the lower it stands, 0 below place {k}."
    )


def _answer(
    rows: Sequence[ReportRow], systems: Sequence[ReportRow], pairs: Sequence[Pair], key: str
) -> Iterator[str]:
    """Who is ahead, of whom, and how far from what can be reached."""
    if not systems:
        return
    first, name = systems[0], label(key).partition(",")[0]
    kind = " (a baseline: no model is ahead of counting)" if first.kind == "baseline" else ""
    yield f"{first.name}{kind} has the highest {name}, {_value(first, key)}."
    by_names = {(pair.a, pair.b): pair for pair in pairs}
    by_names |= {(pair.b, pair.a): pair.reversed() for pair in pairs}
    others = [("the next", row) for row in systems[1:2]]
    baseline = next((row for row in systems[1:] if row.kind == "baseline"), None)
    if first.kind != "baseline" and baseline is not None and baseline is not systems[1]:
        others.append(("the best baseline", baseline))
    untested = False
    for words, other in others:
        if other.kind == "baseline" and words == "the next":
            words += ", a baseline"
        pair = by_names.get((first.name, other.name))
        by = f"{first.metrics[key] - other.metrics[key]:.4f}"
        if pair is not None:
            by = _difference(pair) + _verdict(pair)
            untested |= pair.p_value is None
        yield f"It is ahead of {other.name} ({words}: {other.metrics[key]:.4f}) by {by}."
    if untested:
        yield "Where there is no p, one of the two was still improving, so that no test was made."
    for row in rows:
        best = row.metrics[key]
        if row.kind == "ceiling" and best > 0:
            share = f"{first.metrics[key] / best:.0%}"
            yield (
                f"What can be reached on this data at all, {row.name!r}, is {best:.4f}: "
                f"{first.name} has {share} of it."
            )
        elif row.kind == "bound" and best > 0:
            than = "more" if first.metrics[key] > best else "less"
            yield f"The bound {row.name!r} is {best:.4f}: {first.name} has {than}."


def _undecided(report: Report, systems: Sequence[ReportRow]) -> Iterator[str]:
    """Pairs without a winner, rows that could be better with more time, what was not measured."""
    places = {row.name: place for place, row in enumerate(systems)}
    known = [pair for pair in report.pairs if pair.a in places and pair.b in places]
    better = [pair if pair.difference.mean >= 0 else pair.reversed() for pair in known]
    better.sort(key=lambda pair: (places[pair.a], places[pair.b]))
    open_pairs = [p for p in better if p.p_value is not None and not p.is_decided]
    if open_pairs:
        told = "; ".join(f"{p.a} and {p.b} ({_difference(p)})" for p in open_pairs[:_SHOWN])
        more = len(open_pairs) - _SHOWN
        more_text = f"; and {more} more of the pairs below" if more > 0 else ""
        yield f"These targets do not tell which is better: {told}{more_text}."
    elif any(pair.p_value is not None for pair in known):
        yield "Every pair that was tested is decided at the level of 5%."
    still = [row for row in systems if row.converged is False]
    if still:
        names = ", ".join(f"{row.name} ({row.end})" for row in still)
        yield (
            f"Still improving when training ended: {names}. More training may change these "
            "values, so that they take no part in tests."
        )
    trained = [row for row in systems if row.kind == "model"]
    if trained and all(row.seeds == 1 for row in trained):
        yield (
            "Each model was trained once: the intervals cover the choice of users, and not what "
            "another seed would change."
        )
    if report.failures:
        yield f"Without a result: {', '.join(report.failures)}."


def _value(row: ReportRow, key: str) -> str:
    ends = row.interval(key)
    words = "" if ends is None else f" (95% interval {ends[0]:.4f} to {ends[1]:.4f})"
    return f"{row.metrics[key]:.4f}{words}" + (
        ", and was still improving when its training ended" if row.converged is False else ""
    )


def _difference(pair: Pair) -> str:
    found = pair.difference
    return f"{found.mean:.4f}, 95% interval {found.low:+.4f} to {found.high:+.4f}"


def _verdict(pair: Pair) -> str:
    if pair.p_value is None:
        return ""
    told = f"; p {pair.p_value:.3f}" if pair.p_value >= 0.001 else "; p below 0.001"
    return told if pair.is_decided else f"{told}, which decides nothing"
