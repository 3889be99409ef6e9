"""Cost as tables, for people and for documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from longrec.core import console
from longrec_bench.cells import Cell
from longrec_bench.cost.plan import PASSES
from longrec_bench.cost.turns import size_of
from longrec_bench.shown import Table


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Times, memory and ratios by length, then what they add up to."""
    cells = found["cells"]
    for kind in ("mixer", "model"):
        for which in PASSES:
            own = [cell for cell in cells if kind in cell and cell["pass"] == which]
            if own:
                yield _by_length(f"{kind}, {which}: milliseconds, median", kind, own, _time)
                if which != "step":
                    title = f"{kind}, {which}: peak memory in MiB"
                    yield _by_length(title, kind, own, _memory)
            own = [row for row in found["ratios"] if kind in row and row["pass"] == which]
            if own:
                title = f"{kind}, {which}: times as fast as {own[0]['against']}"
                if any(row.get("ceiling") for row in own):
                    title += " (in brackets: a free mixer)"
                yield _by_length(title, kind, own, _ratio)
    yield from _sizes("bank", "slots", cells)
    yield from _sizes("loss", "catalog", cells)
    if found["exponents"]:
        yield Table(
            "growth: time ~ T^p, memory ~ T^q, fitted",
            ["of", "pass", "p", "q", "events"],
            [
                [
                    _name(row),
                    row["pass"],
                    _number(row["seconds"]),
                    _number(row["bytes"]),
                    f"{row['from']:,} to {row['to']:,}",
                ]
                for row in found["exponents"]
            ],
        )
    if found["crossovers"]:
        yield Table(
            "faster from how many events on",
            ["of", "pass", "than", "events"],
            [[_name(row), row["pass"], row["against"], _from(row)] for row in found["crossovers"]],
        )
    if found["limits"]:
        yield Table(
            "distance to the machine's limit, long histories",
            ["of", "pass", "events", "ms", "ms of operations", "ms of bytes", "GFLOP/s", "share"],
            [
                [
                    _name(row),
                    row["pass"],
                    f"{row['length']:,}",
                    _number(1e3 * row["seconds"]),
                    _number(1e3 * row["operations_seconds"]),
                    "" if row["bytes_seconds"] is None else _number(1e3 * row["bytes_seconds"]),
                    _number(row["gigaflops"]),
                    f"{row['share']:.0%}",
                ]
                for row in found["limits"]
            ],
        )
    if found["goals"]:
        yield Table(
            "goals",
            ["goal", "measured", "met"],
            [
                [row["goal"], _number(row["measured"]), "yes" if row["met"] else "no"]
                for row in found["goals"]
            ],
        )
    if found["skipped"]:
        yield Table(
            "not measured",
            ["of", "pass", "size", "why"],
            [
                [_name(row), row["pass"], f"{size_of(row):,}", row["why"]]
                for row in found["skipped"]
            ],
        )


def facts(found: dict[str, Any]) -> dict[str, str]:
    """The machine in words."""
    machine = found["machine"]
    pinned = "pinned" if machine["pinned"] else "not pinned on this system"
    return {
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "threads": f"{machine['threads']}, {pinned}",
        "load before": str(machine["load_before"]),
        "of their time the threads worked": f"{machine['processor_share'] or 0:.0%}",
        **{name: f"{rate:,.4g}" for name, rate in machine["rates"].items()},
        "versions": ", ".join(f"{name} {text}" for name, text in machine["versions"].items()),
        "time": f"{found['started']} to {found['ended']}",
    }


def show(found: dict[str, Any]) -> None:
    """Print the tables, the machine and the method."""
    for table in tables(found):
        console.table(table.title, table.columns, table.rows)
    console.facts_table("machine", facts(found))
    for line in found["method"]:
        console.out.print(console.plain(f"- {line}"), markup=False)


def _by_length(title: str, kind: str, rows: Sequence[dict[str, Any]], text: Any) -> Table:
    """A row for each name, a column for each length."""
    lengths = sorted({row["length"] for row in rows})
    lines = []
    for name in dict.fromkeys(row[kind] for row in rows):
        own = {row["length"]: text(row) for row in rows if row[kind] == name}
        lines.append([name, *(own.get(length, "") for length in lengths)])
    return Table(title, [kind, *(f"{length:,}" for length in lengths)], lines)


def _sizes(kind: str, size: str, cells: Sequence[Cell]) -> Iterator[Table]:
    own = [cell for cell in cells if kind in cell]
    if own:
        yield Table(
            f"{kind}: milliseconds, median (least to most)",
            [kind, size, "pass", "batch", "ms", "peak MiB"],
            [
                [
                    cell[kind],
                    f"{cell[size]:,}",
                    cell["pass"],
                    cell["batch"],
                    f"{_time(cell)} ({_number(1e3 * cell['seconds_min'])} to "
                    f"{_number(1e3 * cell['seconds_max'])})",
                    _memory(cell),
                ]
                for cell in own
            ],
        )


def _time(cell: Cell) -> str:
    return _number(1e3 * cell["seconds_median"])


def _memory(cell: Cell) -> str:
    return "" if cell["peak_bytes"] is None else _number(cell["peak_bytes"] / 2**20)


def _ratio(row: dict[str, Any]) -> str:
    ceiling = row.get("ceiling")
    return _number(row["ratio"]) + ("" if ceiling is None else f" ({_number(ceiling)})")


def _from(row: dict[str, Any]) -> str:
    if row["length"] is None:
        return "never, as far as measured"
    return "all measured" if row["everywhere"] else f"{row['length']:,.0f}"


def _name(row: dict[str, Any]) -> str:
    kind = next(kind for kind in ("mixer", "model", "bank", "loss") if kind in row)
    return f"{kind} {row[kind]}"


def _number(value: float | None) -> str:
    """Three digits that count, and no exponents."""
    if value is None:
        return ""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"
