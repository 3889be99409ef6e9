"""Rows and pairs for programs (JSON, a frame) and for a screen, the same for every comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl

from longrec.comparison.read_runs import read_json
from longrec.core.format import size
from longrec.evaluation.report.contents import ReportRow
from longrec.evaluation.report.pairs import Pair
from longrec.evaluation.summary import SERVED, UNFILTERED, Metrics, label

QUOTED = tuple(SERVED + name for name in ("ndcg@10", "hr@10", "mrr@10"))


def statement_of(rows: Sequence[ReportRow]) -> str:
    """How the numbers of some rows were made, in words; empty without a result."""
    systems = [row.metrics for row in rows if row.is_system and isinstance(row.metrics, Metrics)]
    if not systems:
        return ""
    policies = {metrics.exclude_seen for metrics in systems}
    return replace(
        systems[0], exclude_seen=policies.pop() if len(policies) == 1 else None
    ).statement()


def results_document(
    rows: Sequence[ReportRow],
    pairs: Sequence[Pair],
    runs: Mapping[str, Sequence[Path]],
    metric: str,
) -> dict[str, Any]:
    """Plain JSON values: metric, statement, rows, bounds and pairs.

    Parameters
    ----------
    rows : in the order of the metric.
    pairs
    runs : folders of the runs behind a row, by its name.
    metric : key of the metric that leads.
    """
    return {
        "metric": metric,
        "statement": statement_of(rows),
        "rows": [
            _row(row, place, runs.get(row.name, ()))
            for place, row in enumerate(rows, start=1)
            if row.is_system
        ],
        "bounds": [
            {"name": row.name, "kind": row.kind, "metrics": _metrics(row)}
            for row in rows
            if not row.is_system
        ],
        "pairs": [pair.to_dict(metric) for pair in pairs],
    }


def _row(row: ReportRow, place: int, runs: Sequence[Path]) -> dict[str, Any]:
    return {
        "rank": place,
        "name": row.name,
        "kind": row.kind,
        "converged": row.converged,
        "ended": row.ended,
        "seeds": row.seeds,
        "metrics": _metrics(row),
        "spread": dict(row.spread),
        "cost": asdict(row.cost),
        "memory": row.memory_use(),
        "runs": [{"folder": str(run)} | read_json(run / "provenance.json") for run in runs],
    }


def _metrics(row: ReportRow) -> dict[str, Any]:
    return row.metrics.to_dict() if isinstance(row.metrics, Metrics) else dict(row.metrics)


def results_frame(rows: Sequence[ReportRow]) -> pl.DataFrame:
    """One line per row: metrics with intervals, then costs."""
    lines = []
    for rank, row in enumerate(rows, start=1):
        line: dict[str, Any] = {
            "rank": rank if row.is_system else None,
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


def summary_table(rows: Sequence[ReportRow]) -> tuple[list[str], list[list[str]]]:
    """Columns and lines of a table for the screen, in the order of the rows."""
    ndcg, others = QUOTED[0], [QUOTED[1], "ndcg@10", UNFILTERED + "ndcg@10"]
    lines = []
    for rank, row in enumerate(rows, start=1):
        cost, ends = row.cost, row.interval(ndcg)
        lines.append(
            [
                str(rank) if row.is_system else "",
                row.name,
                row.policy,
                _four(row, ndcg),
                "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}",
                *(_four(row, key) for key in others),
                "" if cost.seconds is None else f"{cost.seconds / 60:.1f}",
                "" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**20:,.0f}",
                cost.keeps if cost.kept_bytes is None else size(cost.kept_bytes),
                _how_ended(row),
            ]
        )
    head = ["#", "model", "seen items", label(ndcg), "95%", *map(label, others)]
    return [*head, "minutes", "peak MiB", "kept", "ended"], lines


def _four(row: ReportRow, key: str) -> str:
    return f"{row.metrics[key]:.4f}" if key in row.metrics else ""


def _how_ended(row: ReportRow) -> str:
    """What matters of it: too early a training's end, or what else a row is."""
    if not row.is_system:
        return row.kind
    return "not converged" if row.converged is False else row.ended
