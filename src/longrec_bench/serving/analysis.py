"""What rows of serving say beside each other: long histories, reading them again, and goals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from longrec_bench.goals import Goal
from longrec_bench.measurement import Row

SHARED = ("system", "catalog", "transport", "durability")
"""What rows share that differ in the history alone, as far as they have it."""
REENCODING = "re-encode"
"""What the names of systems without a stream begin with."""

P99_MS, RECALL, FLAT, PAIRS = 10.0, 0.95, 1.1, 300.0
LARGE, SMALL, ABOUT = 1_000_000, 3_400, 0.1
"""Items that goals speak of; catalogs of so many but for a tenth count."""


def ratios(cells: Sequence[Row]) -> list[Row]:
    """Ratios of median times of one client, each with its words.

    Returns
    -------
    list of dict
        "system", "catalog" and "transport" if the cells have them, "durability", "of" (the words),
        "ratio".
    """
    rows = []
    again = [cell for cell in cells if cell["system"].startswith(REENCODING)]
    for shared, own in _by_history(cells):
        shortest, longest = own[0], own[-1]
        pairs = []
        if longest is not shortest:
            words = f"after {longest['history']:,} events / after {shortest['history']:,}"
            pairs.append((words, longest, shortest))
        for other in again:
            same = next((one for one in own if _comparable(one, other)), None)
            if same is not None:
                words = f"{other['system']} / stream, after {same['history']:,} events"
                pairs.append((words, other, same))
        rows += [
            shared | {"of": words, "ratio": above["p50_ms"] / below["p50_ms"]}
            for words, above, below in pairs
        ]
    return rows


def _by_history(cells: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """What rows of one client share that differ in the history alone; they, short ones first."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for cell in cells:
        if cell["durability"] != "none" and cell["clients"] == 1:
            groups.setdefault(tuple(cell.get(key) for key in SHARED), []).append(cell)
    for own in groups.values():
        shared = {key: own[0][key] for key in SHARED if key in own[0]}
        yield shared, sorted(own, key=lambda cell: int(cell["history"]))


def _comparable(one: Row, again: Row) -> bool:
    keys = ("history", "catalog", "transport")
    return all(one.get(key) == again.get(key) for key in keys)


def goals(cells: Sequence[Row]) -> list[Row]:
    """Each goal for each system that was measured under its condition, at its worst cell.

    Returns
    -------
    list of dict
        "system", "goal", "figure", "at" (where the worst figure was), "met".
    """
    served = [cell for cell in cells if not cell["system"].startswith(REENCODING)]
    found = []
    for system in dict.fromkeys(cell["system"] for cell in served):
        own = [cell for cell in served if cell["system"] == system]
        parts = (_large_catalog(own), _long_histories(own), _many_clients(own))
        found += [(system, goal) for part in parts for goal in part]
    return [
        {
            **{"system": system, "goal": goal.words, "figure": goal.figure},
            **{"at": goal.at, "met": goal.met},
        }
        for system, goal in sorted(found, key=lambda pair: pair[1].words)
    ]


def _large_catalog(cells: Sequence[Row]) -> Iterator[Goal]:
    large = [cell for cell in cells if cell["clients"] == 1 and _about(cell, LARGE)]
    for transport in dict.fromkeys(cell["transport"] for cell in large):
        own = [cell for cell in large if cell["transport"] == transport]
        worst = max(own, key=lambda cell: float(cell["p99_ms"]))
        words = f"p99 under {P99_MS:g} ms at {LARGE:,} items, one client, {transport}"
        at = f"{worst['history']:,} events, {worst['durability']}"
        yield Goal(words, worst["p99_ms"], most=P99_MS, at=at)
    if large:
        least = min(float(cell["recall_at_10"]) for cell in large)
        words = f"recall@10 of at least {RECALL:g} at {LARGE:,} items"
        yield Goal(words, least, least=RECALL, at=f"{large[0]['catalog']:,} items")


def _long_histories(cells: Sequence[Row]) -> Iterator[Goal]:
    worst: dict[str, tuple[float, Row]] = {}
    for shared, own in _by_history(cells):
        ratio, transport = own[-1]["p50_ms"] / own[0]["p50_ms"], shared["transport"]
        if len(own) > 1 and (transport not in worst or ratio > worst[transport][0]):
            worst[transport] = ratio, own[-1]
    for transport, (ratio, cell) in worst.items():
        words = f"p50 flat in the history (at most {FLAT:g} of the shortest's), {transport}"
        at = f"{cell['catalog']:,} items, {cell['history']:,} events, {cell['durability']}"
        yield Goal(words, ratio, most=FLAT, at=at)


def _many_clients(cells: Sequence[Row]) -> Iterator[Goal]:
    """The most pairs that any number of clients reaches, where that is least."""
    most: dict[tuple[int, str], Row] = {}
    for cell in sorted(cells, key=_rate):
        if cell["transport"] == "http" and _about(cell, SMALL):
            most[cell["history"], cell["durability"]] = cell
    if most:
        worst = min(most.values(), key=_rate)
        words = f"{PAIRS:g} pairs per second over HTTP at {SMALL:,} items"
        at = f"clients: {worst['clients']}, {worst['history']:,} events, {worst['durability']}"
        yield Goal(words, _rate(worst), least=PAIRS, at=at)


def _rate(cell: Row) -> float:
    return float(cell["pairs_per_second"])


def _about(cell: Row, items: int) -> bool:
    return abs(float(cell["catalog"]) / items - 1) <= ABOUT
