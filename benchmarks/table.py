"""Print a Markdown table of evaluated runs, and write a report: every number from their own files.

    python benchmarks/table.py [--report report.html] RUN [RUN ...]
    python benchmarks/table.py COMPARISON

Each RUN is a folder that `longrec train` and `longrec evaluate` wrote; the first is compared with
each other one by a paired bootstrap over users. COMPARISON is a folder of `longrec compare`, which
has its own report; the best of its rows is compared with each other one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from longrec.comparison.plan import COMPARISON
from longrec.comparison.read_runs import made_with, read_ranks, report_row
from longrec.comparison.report import how_ended
from longrec.comparison.results import collect
from longrec.core.format import size
from longrec.evaluation.report.contents import Report, ReportRow, compare_pairs, leading_metric
from longrec.evaluation.report.drawing import label
from longrec.evaluation.report.page import write_report
from longrec.evaluation.summary import Metrics

METRICS = ("ndcg@10", "hr@10", "mrr@10")
COLUMNS = (
    *("run", "NDCG@10", "HR@10", "MRR@10", "unfiltered NDCG@10 / HR@10", "epochs, minutes"),
    *("peak memory", "kept of a user", "ended"),
)
USAGE = ("run", "slots used", "entropy / log M", "KL to uniform", "epochs measured")


def markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; nothing where it would have no line."""
    if not lines:
        return ""
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *lines)
    )


def metric_cell(row: ReportRow, key: str) -> str:
    """A metric with its interval, and the spread over seeds."""
    ends = row.interval(key)
    text = f"{row.metrics[key]:.4f}"
    text += "" if ends is None else f" ({ends[0]:.4f} to {ends[1]:.4f})"
    return text + (f" ± {row.spread[key]:.4f}" if key in row.spread else "")


def table_line(row: ReportRow) -> list[str]:
    """One line of the main table."""
    cost = row.cost
    stored = cost.keeps if cost.kept_bytes is None else size(cost.kept_bytes)
    time = "" if cost.seconds is None else f"{cost.epochs:g}, {cost.seconds / 60:.0f}"
    return [
        row.name,
        *(metric_cell(row, key) for key in METRICS),
        f"{row.metrics['unfiltered/ndcg@10']:.4f} / {row.metrics['unfiltered/hr@10']:.4f}",
        time,
        "" if cost.peak_bytes is None else size(cost.peak_bytes),
        stored,
        how_ended(row) if row.is_system else row.kind,
    ]


def usage_line(row: ReportRow) -> list[str]:
    """One line of the table of memory banks."""
    use = row.memory_use()
    assert row.log is not None
    numbers = [f"{use['memory_share']:.1%}", f"{use['memory_entropy']:.3f}"]
    return [row.name, *numbers, f"{use['memory_kl']:.3f}", f"{row.log['memory_share'].count()}"]


def main() -> None:
    """Print the table, the differences and the origins; write the report if it is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--title", default="Evaluated runs")
    given = parser.parse_args()
    if len(given.runs) == 1 and (given.runs[0] / COMPARISON.document).is_file():
        found = collect(given.runs[0])
        rows, pairs, folders, metric = found.rows, found.pairs, found.runs, found.metric
    else:
        folders = {run.name: [run] for run in given.runs}
        rows = [report_row(runs, name) for name, runs in folders.items()]
        ranks = {name: [read_ranks(run) for run in runs] for name, runs in folders.items()}
        metric = leading_metric(rows)
        pairs = compare_pairs(ranks, metric, {row.name for row in rows if row.is_ranked})
    lines = [
        f"- {pair.a} minus {pair.b}: {pair.difference.mean:+.4f} "
        f"({pair.difference.low:+.4f} to {pair.difference.high:+.4f})"
        + ("" if pair.p_value is None else f", p {pair.p_value:.3f}")
        for pair in pairs
        if pair.a == pairs[0].a
    ]
    facts = {run.name: made_with(run) for runs in folders.values() for run in runs}
    print(markdown(COLUMNS, [table_line(row) for row in rows]), end="\n\n")
    usage = markdown(USAGE, [usage_line(row) for row in rows if row.memory_use()])
    if usage:
        print(usage, end="\n\n")
    print(
        f"Differences in {label(metric)} over the same targets:\n\n" + "\n".join(lines), end="\n\n"
    )
    print("\n".join(f"- {name}: {text}" for name, text in facts.items()))
    if given.report is not None:
        metrics = rows[0].metrics
        assert isinstance(metrics, Metrics)
        report = Report(given.title, rows, (), facts, metrics.protocol(), pairs)
        write_report(given.report, report)


if __name__ == "__main__":
    main()
