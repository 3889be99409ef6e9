"""A measurement as tables, for people and for documents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from longrec.core import console


class Table(NamedTuple):
    """A title, the columns' names, and rows of plain values."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Cells, ratios, goals if there are any, and where the time goes."""
    cells = found["cells"]
    yield Table(
        "an event and a recommendation, in milliseconds",
        [name.removesuffix("_ms").replace("_", " ") for name in cells[0]],
        [[_figure(name, value) for name, value in cell.items()] for cell in cells],
    )
    if found["ratios"]:
        yield Table(
            "ratios of medians, one client",
            list(found["ratios"][0]),
            [[*row.values()] for row in found["ratios"]],
        )
    if found.get("goals"):
        yield Table(
            "goals, at the worst cell",
            list(found["goals"][0]),
            [
                [("no", "yes")[x] if isinstance(x, bool) else x for x in row.values()]
                for row in found["goals"]
            ],
        )
    yield from _breakdown(found["breakdown"])


def _breakdown(rows: list[dict[str, Any]]) -> Iterator[Table]:
    """Where the time goes: a table for each catalog and transport, a column for each store."""
    for (catalog, transport), group in groupby(
        rows, lambda row: (row.get("catalog"), row.get("transport"))
    ):
        own = list(group)
        where = "" if catalog is None else f"{catalog:,} items, {transport}: "
        yield Table(
            f"{where}where a pair's time goes, one client, {own[0]['of']} in milliseconds",
            ["part", *(f"{row['system']}, {row['durability']}" for row in own)],
            [[part, *(row["ms"][part] for row in own)] for part in own[0]["ms"]],
        )


def _figure(name: str, value: Any) -> Any:
    return round(value) if name == "pairs_per_second" else value


def show(found: dict[str, Any]) -> None:
    """Print the tables, and the machine."""
    for table in tables(found):
        console.table(table.title, table.columns, table.rows)
    machine = found["machine"]
    pinned = "one, all threads pinned to it" if machine["pinned"] else "not pinned on this system"
    if machine["pinned"] and machine["cores_used"] > 1:
        pinned += "; servers have all"
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


def as_markdown(table: Table) -> str:
    """A table in Markdown: large numbers with commas, others with two or three decimals."""
    lines = [table.columns, ["---"] * len(table.columns)]
    lines += [[_text(value) for value in row] for row in table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
