"""Serving as tables, for people and for documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from longrec.core.machine import machine_text, versions_text
from longrec_bench.measurement import Row
from longrec_bench.tables import Table, all_keys, table, yes_or_no


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Cells, ratios, goals if there are any, and where the time goes."""
    cells, goals = found["cells"], found.get("goals", [])
    names = {key.removesuffix("_ms").replace("_", " "): key for key in cells[0]}
    rate = {"pairs per second": lambda row: round(row["pairs_per_second"])}
    title = "an event and a recommendation, in milliseconds"
    yield from table(title, cells, {name: rate.get(name, key) for name, key in names.items()})
    yield from table("ratios of medians, one client", found["ratios"], all_keys(found["ratios"]))
    yield from table("goals, at the worst cell", goals, all_keys(goals) | {"met": yes_or_no})
    yield from _breakdown(found["breakdown"])


def _breakdown(rows: Sequence[Row]) -> Iterator[Table]:
    """Where the time goes: a table for each catalog and transport, a column for each store."""
    places = groupby(rows, lambda row: (row.get("catalog"), row.get("transport")))
    for (catalog, transport), group in places:
        own = list(group)
        where = "" if catalog is None else f"{catalog:,} items, {transport}: "
        yield Table(
            f"{where}where a pair's time goes, one client, {own[0]['of']} in milliseconds",
            ["part", *(f"{row['system']}, {row['durability']}" for row in own)],
            [[part, *(row["ms"][part] for row in own)] for part in own[0]["ms"]],
        )


def facts(found: dict[str, Any]) -> dict[str, object]:
    """The machine in words."""
    machine = found["machine"]
    pinned, n_used, sync = itemgetter("pinned", "cores_used", "sync_ms")(machine)
    used = "one, all threads pinned to it" if pinned else "not pinned on this system"
    if pinned and n_used > 1:
        used += "; servers have all"
    words = {
        "processor": f"{machine_text(machine)}; used: {used}",
        "load before": machine["load_before"],
        "store": machine["store"],
        "file system": machine["file_system"],
        "sync of 32 KiB": None if sync is None else f"{sync:.3f} ms, median, without a store",
        "versions": versions_text(machine["versions"]),
    }
    return {name: text for name, text in words.items() if text is not None}
