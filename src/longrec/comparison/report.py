"""A comparison for people and programs: results.json, results.csv, report.html, and a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from longrec.comparison.read_runs import made_with
from longrec.comparison.results import Comparison
from longrec.core.files import write_file
from longrec.core.format import size
from longrec.core.machine import machine_text, versions_text
from longrec.evaluation.report.contents import Report, ReportRow
from longrec.evaluation.report.page import write_report
from longrec.evaluation.summary import SERVED, UNFILTERED, label

QUOTED = tuple(SERVED + name for name in ("ndcg@10", "hr@10", "mrr@10"))


def write_results(comparison: Comparison, facts: Mapping[str, str]) -> None:
    """Write results.json, results.csv and report.html, each whole or not at all.

    Parameters
    ----------
    comparison
    facts
        How the comparison was made, for the page and for results.json: command, machine, ….
    """
    document = {"made": dict(facts)} | comparison.to_dict()
    write_file(comparison.folder / "results.json", json.dumps(document, indent=1, allow_nan=False))
    write_file(comparison.folder / "results.csv", results_frame(comparison).write_csv())
    plan = comparison.plan
    page_facts = {
        **facts,
        "histories": f"{plan.histories}, fingerprint {plan.fingerprint[:12]}",
        "budget": f"{plan.budget:g} minutes of training for each run, validation included",
        "common settings": ", ".join(f"{k}={v}" for k, v in plan.settings.items()) or "defaults",
        "seeds": ", ".join(map(str, range(plan.seeds))),
        "device": f"{plan.device}, {plan.threads} thread(s)",
    }
    for runs in comparison.runs.values():
        page_facts |= {run.name: made_with(run) for run in runs}
    write_report(
        comparison.report,
        Report(
            f"Comparison on {Path(plan.histories).name}",
            comparison.rows,
            facts=page_facts,
            statement=comparison.statement,
            pairs=comparison.pairs,
            failures={
                (f"{f.name}, seed {f.seed}" if plan.seeds > 1 else f.name): f"{f.phase}: {f.error}"
                for f in comparison.failures
            }
            | dict.fromkeys(comparison.waiting, "not run yet"),
        ),
    )


def provenance_facts(about: Mapping[str, Any]) -> dict[str, str]:
    """What numbers must be quoted with, in words: command, data, machine, versions, …."""
    data = about["data"]
    return {
        "command": about["command"],
        "data": f"{data['users']:,} users, {data['items']:,} items, {data['events']:,} events",
        "machine": machine_text(about["machine"]),
        "versions": versions_text(about["versions"]),
        "commit": str(about["commit"] or "installed package"),
        "time": about["started"],
    }


def results_frame(comparison: Comparison) -> pl.DataFrame:
    """One line per row of the comparison: metrics with intervals, then costs."""
    lines = []
    for rank, row in enumerate(comparison.rows, start=1):
        line: dict[str, Any] = {
            "rank": rank if row.is_ranked else None,
            "model": row.name,
            "kind": row.kind,
            "ended": row.ended,
            "converged": None if row.converged is None else str(row.converged),
            "seeds": row.seeds if row.is_system else None,
            "seen items": row.policy,
        }
        for key in QUOTED:
            line[key] = row.metrics.get(key)
            line[f"{key} low"], line[f"{key} high"] = row.interval(key) or (None, None)
            line[f"{key} spread"] = row.spread.get(key)
        line |= {key: value for key, value in row.metrics.items() if key not in line}
        lines.append(line | asdict(row.cost) | row.memory_use())
    columns = dict.fromkeys(key for line in lines for key in line)
    frame = pl.DataFrame({key: [line.get(key) for line in lines] for key in columns}, strict=False)
    return frame.with_columns(pl.col(pl.String).replace("", None))  # empty cells without quotes


def summary_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Columns and lines of a table for the screen, in the order of ranks.

    A row that was still improving when its budget ended has its place, and no number.
    """
    ndcg, others = QUOTED[0], [QUOTED[1], "ndcg@10", UNFILTERED + "ndcg@10"]
    lines = []
    for rank, row in enumerate(comparison.rows, start=1):
        cost, ends = row.cost, row.interval(ndcg)
        lines.append(
            [
                str(rank) if row.is_ranked else "",
                row.name,
                row.policy,
                _four(row, ndcg),
                "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}",
                *(_four(row, key) for key in others),
                "" if cost.seconds is None else f"{cost.seconds / 60:.1f}",
                "" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**20:,.0f}",
                cost.keeps if cost.kept_bytes is None else size(cost.kept_bytes),
                how_ended(row) if row.is_system else row.kind,
            ]
        )
    head = ["#", "model", "seen items", label(ndcg), "95%", *map(label, others)]
    return [*head, "minutes", "peak MiB", "kept", "ended"], lines


def _four(row: ReportRow, key: str) -> str:
    return f"{row.metrics[key]:.4f}" if key in row.metrics else ""


def how_ended(row: ReportRow) -> str:
    """How a row's training ended; "not converged" is what matters where it was too early."""
    return "not converged" if row.converged is False else row.ended
