"""A comparison for people and programs: results.json, results.csv, report.html, and a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longrec.compare.results import Comparison, memory_of
from longrec.compare.rows import origin
from longrec.core.files import write_file
from longrec.core.format import size
from longrec.evaluation.report.contents import Report, ReportRow
from longrec.evaluation.report.page import write_report
from longrec.evaluation.summary import UNFILTERED

QUOTED = ("ndcg@10", "hr@10", "mrr@10")


def write_results(found: Comparison, commands: Mapping[str, str]) -> None:
    """Write results.json, results.csv and report.html, each whole or not at all.

    Parameters
    ----------
    found
    commands
        How the comparison was made, for the page and for results.json: command, machine, ….
    """
    document = {"made": dict(commands)} | found.to_dict()
    write_file(found.folder / "results.json", json.dumps(document, indent=1, allow_nan=False))
    write_file(found.folder / "results.csv", to_csv(found))
    plan = found.plan
    facts = {
        **commands,
        "histories": f"{plan.histories}, fingerprint {plan.fingerprint[:12]}",
        "budget": f"{plan.budget:g} minutes of training for each run, validation included",
        "common settings": ", ".join(f"{k}={v}" for k, v in plan.settings.items()) or "defaults",
        "seeds": ", ".join(map(str, range(plan.seeds))),
        "device": f"{plan.device}, {plan.threads} thread(s)",
    }
    for runs in found.runs.values():
        facts |= {run.name: origin(run) for run in runs}
    write_report(
        found.report,
        Report(
            f"Comparison on {Path(plan.histories).name}",
            found.rows,
            facts=facts,
            protocol=found.protocol,
            pairs=found.pairs,
            failures={
                (f"{f.name}, seed {f.seed}" if plan.seeds > 1 else f.name): f"{f.stage}: {f.error}"
                for f in found.failures
            }
            | dict.fromkeys(found.waiting, "not run yet"),
        ),
    )


def to_csv(found: Comparison) -> str:
    """One line per row: metrics with intervals, then costs."""
    prefix, table = _prefix(found), []
    for place, row in enumerate(found.rows, start=1):
        line: dict[str, Any] = {
            "rank": place if row.ranks else None,
            "model": row.name,
            "kind": row.kind,
            "ended": row.ended,
            "converged": row.converged,
            "seeds": row.seeds if row.contends else None,
        }
        for name in QUOTED:
            key = prefix + name
            line[key] = row.metrics.get(key)
            line[f"{key} low"], line[f"{key} high"] = row.interval(key) or (None, None)
            line[f"{key} spread"] = row.spread.get(key)
        line |= {key: value for key, value in row.metrics.items() if key not in line}
        table.append(line | asdict(row.cost) | memory_of(row))
    columns = list(dict.fromkeys(key for line in table for key in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def summary_table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Columns and lines of a table for the screen, in the order of ranks."""
    ndcg, hr = (_prefix(found) + name for name in QUOTED[:2])
    lines = []
    for place, row in enumerate(found.rows, start=1):
        cost, ends = row.cost, row.interval(ndcg)
        kept = cost.keeps if cost.state_bytes is None else size(cost.state_bytes)
        lines.append(
            [
                str(place) if row.ranks else "",
                row.name,
                f"{row.metrics[ndcg]:.4f}" if ndcg in row.metrics else "",
                "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}",
                f"{row.metrics[hr]:.4f}" if hr in row.metrics else "",
                "" if cost.seconds is None else f"{cost.seconds / 60:.1f}",
                "" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**20:,.0f}",
                kept,
                how_ended(row) if row.contends else row.kind,
            ]
        )
    metrics = [QUOTED[0].upper(), "95%", QUOTED[1].upper()]
    return ["#", "model", *metrics, "minutes", "peak MiB", "state", "ended"], lines


def how_ended(row: ReportRow) -> str:
    """How a row's training ended; "not converged" is what matters where it was too early."""
    return "not converged" if row.converged is False else row.ended


def _prefix(found: Comparison) -> str:
    return UNFILTERED if found.metric.startswith(UNFILTERED) else ""
