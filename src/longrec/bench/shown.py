"""A measurement as tables for people."""

from __future__ import annotations

from typing import Any

from longrec import console

COLUMNS = ("system", "history", "durability", "clients", "batch")


def show(found: dict[str, Any]) -> None:
    """Print cells, ratios, where the time goes, and the machine."""
    console.table(
        "an event and a recommendation, in milliseconds (steps: per event)",
        [*COLUMNS, "p50", "p95", "p99", "per second"],
        [
            [
                *(cell[name] for name in COLUMNS),
                *(cell[f"{p}_ms"] for p in ("p50", "p95", "p99")),
                round(cell["pairs_per_second"]),
            ]
            for cell in found["cells"]
        ],
    )
    if found["ratios"]:
        console.table(
            "ratios of medians, one client",
            ["system", "durability", "of", "ratio"],
            [list(row.values()) for row in found["ratios"]],
        )
    if found["breakdown"]:
        console.table(
            "where a pair's time goes, one client, medians in milliseconds",
            ["part", *(f"{row['system']}, {row['durability']}" for row in found["breakdown"])],
            [
                [part, *(row["median_ms"][part] for row in found["breakdown"])]
                for part in found["breakdown"][0]["median_ms"]
            ],
        )
    machine = found["machine"]
    pinned = "one, all threads pinned to it" if machine["pinned"] else "not pinned on this system"
    facts = {
        "processor": f"{machine['processor']}, {machine['cores']} cores; used: {pinned}",
        "load before": machine["load_before"],
        "store": machine["store"],
        "file system": machine["file_system"],
        "sync of 32 KiB": None
        if machine["sync_ms"] is None
        else f"{machine['sync_ms']:.3f} ms, median, without a store",
        "versions": ", ".join(f"{name} {text}" for name, text in machine["versions"].items()),
    }
    console.facts_table("machine", {key: x for key, x in facts.items() if x is not None})
    for line in found["method"]:
        console.out.print(console.plain(f"- {line}"), markup=False)
