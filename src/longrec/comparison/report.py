"""A comparison's files: results.json, results.csv and report.html."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrec.comparison.document import results_frame
from longrec.comparison.read_runs import made_with
from longrec.comparison.results import Comparison
from longrec.core.files import write_file
from longrec.core.machine import machine_text, versions_text
from longrec.evaluation.report.contents import Report
from longrec.evaluation.report.page import write_report


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
    write_file(comparison.folder / "results.csv", results_frame(comparison.rows).write_csv())
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
            data=f"{Path(plan.histories).name}: {facts['data']}",
            failures={
                (f"{f.name}, seed {f.seed}" if plan.seeds > 1 else f.name): f"{f.phase}: {f.error}"
                for f in comparison.failures
            }
            | dict.fromkeys(comparison.waiting, "not run yet"),
        ),
    )


def provenance_facts(about: Mapping[str, Any]) -> dict[str, str]:
    """What numbers must be quoted with, in words: command, data, machine, versions, …."""
    return {
        "command": about["command"],
        "data": data_text(about["data"]),
        "machine": machine_text(about["machine"]),
        "versions": versions_text(about["versions"]),
        "commit": str(about["commit"] or "installed package"),
        "time": about["started"],
    }


def data_text(data: Mapping[str, Any]) -> str:
    """How much of a log there is, in words, by what a provenance says of it."""
    return f"{data['users']:,} users, {data['items']:,} items, {data['events']:,} events"
