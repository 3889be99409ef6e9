"""Cost as tables, for people and for documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from longrec.core.format import number
from longrec.core.machine import machine_text, versions_text
from longrec_bench.cost.analysis import PEERS
from longrec_bench.cost.plan import PASSES
from longrec_bench.cost.sweep import size_of
from longrec_bench.measurement import Row
from longrec_bench.tables import Table, table, yes_or_no


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Times, memory and ratios by length, then what they add up to."""
    cells = found["cells"]
    for kind, peer in PEERS.items():
        for which in PASSES:
            own = [cell for cell in cells if kind in cell and cell["pass"] == which]
            yield from _by_length(f"{kind}, {which}: milliseconds, median", kind, own, _time)
            if which != "step":
                yield from _by_length(f"{kind}, {which}: peak memory in MiB", kind, own, _memory)
            own = [row for row in found["ratios"] if kind in row and row["pass"] == which]
            ceiling = " (in brackets: a free mixer)" * any(row.get("ceiling") for row in own)
            title = f"{kind}, {which}: times as fast as {peer}{ceiling}"
            yield from _by_length(title, kind, own, _ratio)
    for kind, size in (("bank", "slots"), ("loss", "catalog")):
        yield from table(
            f"{kind}: milliseconds, median (least to most)",
            [cell for cell in cells if kind in cell],
            {
                **{kind: kind, size: lambda row: f"{size_of(row):,}"},
                **{"pass": "pass", "batch": "batch", "ms": _times, "peak MiB": _memory},
            },
        )
    of: dict[str, str | Callable[[Row], Any]] = {"of": _name, "pass": "pass"}
    yield from table(
        "growth: time ~ T^p, memory ~ T^q, fitted",
        found["exponents"],
        {
            **of,
            "p": lambda row: number(row["seconds"]),
            "q": lambda row: number(row["bytes"]),
            "events": lambda row: f"{row['from']:,} to {row['to']:,}",
        },
    )
    yield from table(
        "faster from how many events on",
        found["crossovers"],
        {**of, "than": "against", "events": _crossover},
    )
    yield from table(
        "distance to the machine's limit, long histories",
        found["limits"],
        {
            **of,
            "events": lambda row: f"{row['length']:,}",
            "ms": lambda row: _ms(row["seconds"]),
            "ms of operations": lambda row: _ms(row["operations_seconds"]),
            "ms of bytes": lambda row: _ms(row["bytes_seconds"]),
            "GFLOP/s": lambda row: number(row["gigaflops"]),
            "share": lambda row: f"{row['share']:.0%}",
        },
    )
    yield from table(
        "goals",
        found["goals"],
        {"goal": "goal", "measured": lambda row: number(row["measured"]), "met": yes_or_no},
    )
    yield from table(
        "not measured",
        found["skipped"],
        {**of, "size": lambda row: f"{size_of(row):,}", "why": "why"},
    )


def facts(found: dict[str, Any]) -> dict[str, str]:
    """The machine in words."""
    machine = found["machine"]
    pinned = "pinned" if machine["pinned"] else "not pinned on this system"
    return {
        "processor": machine_text(machine),
        "threads": f"{machine['threads']}, {pinned}",
        "load before": str(machine["load_before"]),
        "of their time the threads worked": f"{machine['processor_share'] or 0:.0%}",
        **{name: f"{rate:,.4g}" for name, rate in machine["rates"].items()},
        "versions": versions_text(machine["versions"]),
        "time": f"{found['started']} to {found['ended']}",
    }


def _by_length(
    title: str, kind: str, rows: Sequence[Row], text: Callable[[Row], str]
) -> Iterator[Table]:
    """A line for each name, a column for each length."""
    texts: dict[str, dict[int, str]] = {}
    for row in rows:
        texts.setdefault(row[kind], {})[row["length"]] = text(row)
    lengths = sorted({row["length"] for row in rows})
    if rows:
        lines = [
            [name, *(own.get(length, "") for length in lengths)] for name, own in texts.items()
        ]
        yield Table(title, [kind, *(f"{length:,}" for length in lengths)], lines)


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else number(1e3 * seconds)


def _time(row: Row) -> str:
    return _ms(row["seconds_median"])


def _times(row: Row) -> str:
    return f"{_time(row)} ({_ms(row['seconds_min'])} to {_ms(row['seconds_max'])})"


def _memory(row: Row) -> str:
    return "" if row["peak_bytes"] is None else number(row["peak_bytes"] / 2**20)


def _ratio(row: Row) -> str:
    ceiling = row.get("ceiling")
    return number(row["ratio"]) + ("" if ceiling is None else f" ({number(ceiling)})")


def _crossover(row: Row) -> str:
    if row["length"] is None:
        return "never, as far as measured"
    return "all measured" if row["everywhere"] else f"{row['length']:,.0f}"


def _name(row: Row) -> str:
    kind = next(kind for kind in ("mixer", "model", "bank", "loss") if kind in row)
    return f"{kind} {row[kind]}"
