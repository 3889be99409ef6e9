"""Tables of metrics and of a warm start's gain, for the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longrec.core import console

if TYPE_CHECKING:
    from longrec.evaluation.summary import Metrics


def metrics_table(name: str, metrics: Metrics) -> None:
    """The metrics of one model with intervals, and the protocol below."""
    rows: list[list[object]] = []
    for key in metrics:
        if not key.startswith("unfiltered/"):
            low, high = metrics.intervals[key]
            interval = f"{low:.4f} to {high:.4f}"
            rows.append([key, metrics[key], interval, metrics[f"unfiltered/{key}"]])
    console.table(name, ["metric", "seen filtered", "95% interval", "unfiltered"], rows)
    if len(metrics.buckets) > 1:
        console.table(
            "by history length",
            ["events", "targets", "ndcg@10", "hr@10"],
            [
                [b.label, b.targets, b.estimates["ndcg@10"], b.estimates["hr@10"]]
                for b in metrics.buckets
            ],
        )
    console.print_text(metrics.protocol())


def gain_table(warm: Mapping[str, Any]) -> None:
    """What a warm start gained over the run that it started from, on the new period."""
    gain = warm["gain"]
    if not gain["targets"]:
        console.print_text(f"gain: not measured, since {gain['note']}")
        return
    rows: list[list[object]] = []
    parts = [("all", gain), ("items that the old model knows", gain.get("of_known_items"))]
    for name, part in parts:
        for key in () if part is None else ("ndcg@10", "hr@10"):
            found = part[key]
            low, high = found["interval"]
            change = f"{found['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
            rows.append([name, part["targets"], key, found["old"], found["new"], change])
    console.table(
        f"gain over {warm['run'] or 'the old model'} on the new period",
        ["targets", "number", "metric", "old", "new", "difference (95% interval)"],
        rows,
    )
    seen = "filtered" if gain["lead"] == "filtered" else "not filtered, since repeats are common"
    console.print_text(
        f"Test targets ({gain['split']}) newer than the old model's data, full ranking, seen items "
        f"{seen}. The old model does not know the item of {gain['unknown_to_old']:.1%} of them, "
        "which counts as a miss."
    )
