"""What several commands print: one result, tables of metrics, and how to go on after Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from longrec.core import console
from longrec.core.errors import LongrecError

if TYPE_CHECKING:
    from longrec.evaluation.summary import Metrics


def print_result(
    json: bool, document: Mapping[str, Any], title: str, facts: Mapping[str, object]
) -> None:
    """A result as one JSON document, or its facts as a table."""
    if json:
        console.print_json(document)
    else:
        console.facts_table(title, facts)


@contextmanager
def resumable(how: str = "the same command goes on") -> Iterator[None]:
    """Where Ctrl-C ends the work, end with an error that says how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise LongrecError(f"interrupted; {how}") from None


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
