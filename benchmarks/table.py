"""Print a Markdown table of evaluated runs, and write a report: every number from their own files.

    python benchmarks/table.py [--report report.html] RUN [RUN ...]

Each RUN is a folder that `longrec train` and `longrec evaluate` wrote; the first is compared with
each other one by a paired bootstrap over users.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl

from longrec.demo import read_log
from longrec.evaluation.contents import Report, ReportRow
from longrec.evaluation.report import write_report
from longrec.evaluation.summary import Metrics, compare_ranks

HEAD = (
    "| run | NDCG@10 | HR@10 | MRR@10 | unfiltered NDCG@10 / HR@10 | epochs, minutes | ended |",
    "|---|---|---|---|---|---|---|",
)
COUNTED = "counted"


def read(run: Path, name: str) -> dict[str, Any]:
    """One of a run's JSON files."""
    document: dict[str, Any] = json.loads((run / name).read_text(encoding="utf-8"))
    return document


def table_row(run: Path) -> str:
    """One line of the Markdown table."""
    metrics, training = read(run, "metrics.json"), read(run, "provenance.json")["training"]
    cells = [run.name]
    for key in ("ndcg@10", "hr@10", "mrr@10"):
        low, high = metrics["intervals"][key]
        cells.append(f"{metrics[key]:.4f} ({low:.4f} to {high:.4f})")
    cells.append(f"{metrics['unfiltered/ndcg@10']:.4f} / {metrics['unfiltered/hr@10']:.4f}")
    cells.append(f"{training['epochs']}, {training['seconds'] / 60:.0f}")
    cells.append(training["stop"] + ("" if training["converged"] else ", not converged"))
    return f"| {' | '.join(cells)} |"


def origin(run: Path) -> str:
    """What a number must be quoted with."""
    made = read(run, "provenance.json")
    machine = made["machine"]
    return (
        f"- {run.name}: `{made['command']}`; seed {made['seed']}, commit {made['commit']}, torch "
        f"{made['versions']['torch']}, {machine['processor']}, {machine['threads']} thread(s), "
        f"started {made['started']}"
    )


def difference(first: Path, other: Path) -> str:
    """First minus other, in NDCG@10 over the same users."""
    a, b = (pl.read_parquet(run / "ranks.parquet") for run in (first, other))
    found = compare_ranks(a, b, "ndcg@10")
    return (
        f"- {first.name} minus {other.name}: {found.mean:+.4f} "
        f"({found.low:+.4f} to {found.high:+.4f})"
    )


def report_row(run: Path) -> ReportRow:
    """One row of the HTML report."""
    made = read(run, "provenance.json")
    training = made["training"]
    counted = training["stop"] == COUNTED
    return ReportRow(
        run.name,
        "baseline" if counted else "model",
        Metrics.from_dict(read(run, "metrics.json")),
        train_seconds=training["seconds"],
        converged=training["converged"],
        log=None if counted else read_log(run),
    )


def main() -> None:
    """Print the table, the differences and the origins; write the report if it is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--title", default="Evaluated runs")
    given = parser.parse_args()
    runs: list[Path] = given.runs
    print("\n".join([*HEAD, *map(table_row, runs)]), end="\n\n")
    print("\n".join(difference(runs[0], other) for other in runs[1:]), end="\n\n")
    print("\n".join(map(origin, runs)))
    if given.report is not None:
        rows = [report_row(run) for run in runs]
        metrics = rows[0].metrics
        assert isinstance(metrics, Metrics)
        facts = {run.name: origin(run).removeprefix("- ") for run in runs}
        write_report(given.report, Report(given.title, rows, (), facts, metrics.protocol()))


if __name__ == "__main__":
    main()
