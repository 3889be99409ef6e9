"""What the service is to reach, held against the cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from longrec_bench.cells import Cell
from longrec_bench.ratios import AGAIN, by_history

P99_MS, RECALL, FLAT, PAIRS = 10.0, 0.95, 1.1, 300.0
LARGE, SMALL, ABOUT = 1_000_000, 3_400, 0.1
"""Items that goals speak of; catalogs of so many but for a tenth count."""


def goals(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Each goal for each system that was measured under its condition, at its worst cell.

    Returns
    -------
    list of dict
        "goal", "system", "figure", "at" (where the worst figure was), "met".
    """
    served = [cell for cell in cells if not cell["system"].startswith(AGAIN)]
    found = []
    for system in dict.fromkeys(cell["system"] for cell in served):
        own = [cell for cell in served if cell["system"] == system]
        found += [{"system": system, **goal} for goal in _of_system(own)]
    return sorted(found, key=lambda row: str(row["goal"]))


def _of_system(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    large = [cell for cell in cells if cell["clients"] == 1 and _about(cell, LARGE)]
    for transport in dict.fromkeys(cell["transport"] for cell in large):
        own = [cell for cell in large if cell["transport"] == transport]
        worst = max(own, key=lambda cell: float(cell["p99_ms"]))
        words = f"p99 under {P99_MS:g} ms at {LARGE:,} items, one client, {transport}"
        at = f"{worst['history']:,} events, {worst['durability']}"
        yield _goal(words, worst["p99_ms"], at, worst["p99_ms"] < P99_MS)
    if large:
        least = min(float(cell["recall_at_10"]) for cell in large)
        words = f"recall@10 of at least {RECALL:g} at {LARGE:,} items"
        yield _goal(words, least, f"{large[0]['catalog']:,} items", least >= RECALL)

    flat = [
        (own[-1]["p50_ms"] / own[0]["p50_ms"], own[-1]) for _, own in by_history(cells) if own[1:]
    ]
    for transport in dict.fromkeys(cell["transport"] for _, cell in flat):
        ratio, worst = max(
            ((ratio, cell) for ratio, cell in flat if cell["transport"] == transport),
            key=lambda pair: float(pair[0]),
        )
        words = f"p50 flat in the history (at most {FLAT:g} of the shortest's), {transport}"
        at = f"{worst['catalog']:,} items, {worst['history']:,} events, {worst['durability']}"
        yield _goal(words, ratio, at, ratio <= FLAT)

    small = [cell for cell in cells if cell["transport"] == "http" and _about(cell, SMALL)]
    if small:
        most: dict[tuple[int, str], Cell] = {}
        for cell in sorted(small, key=lambda cell: float(cell["pairs_per_second"])):
            most[cell["history"], cell["durability"]] = cell
        worst = min(most.values(), key=lambda cell: float(cell["pairs_per_second"]))
        words = f"{PAIRS:g} pairs per second over HTTP at {SMALL:,} items"
        at = f"clients: {worst['clients']}, {worst['history']:,} events, {worst['durability']}"
        rate = worst["pairs_per_second"]
        yield _goal(words, rate, at, rate >= PAIRS)


def _goal(words: str, figure: float, at: str, met: bool) -> dict[str, Any]:
    return {"goal": words, "figure": figure, "at": at, "met": met}


def _about(cell: Cell, items: int) -> bool:
    return abs(float(cell["catalog"]) / items - 1) <= ABOUT
