"""Results as tables, printed for people or written as Markdown for documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from longrec.core import console
from longrec.core.format import number, size
from longrec.core.machine import machine_text, versions_text
from longrec_bench.analysis import curves
from longrec_bench.cost.sweep import size_of
from longrec_bench.cost.systems import PEERS
from longrec_bench.measurement import Row
from longrec_bench.plan import PASSES

BOTH = PASSES[1]


class Table(NamedTuple):
    """A title, the columns' names, and lines of plain values."""

    title: str
    columns: list[str]
    lines: list[list[Any]]


def print_result(found: Row, as_json: bool) -> None:
    """Print rows for programs; or tables, what is known of the machine, and how it was measured."""
    if as_json:
        console.print_json(found["cells"])
        return
    for table in tables(found):
        console.table(*table)
    console.facts_table("machine", machine_facts(found))
    for line in found["method"]:
        console.print_text(f"- {line}")


def as_markdown(table: Table) -> str:
    """A table in Markdown: whole numbers with commas, others with three digits that count."""
    lines = [table.columns, ["---"] * len(table.columns)]
    lines += [[number(value) for value in line] for line in table.lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables(found: Row) -> Iterator[Table]:
    """All tables of a result, of cost or of serving, that have lines."""
    if "memory" in found:
        parts = _attack_tables(found)
    else:
        parts = _serving_tables(found) if "breakdown" in found else _cost_tables(found)
    return (table for table in parts if table.lines)


def machine_facts(found: Row) -> dict[str, object]:
    """The machine in words."""
    machine = found["machine"]
    facts = {"processor": machine_text(machine), "load before": machine["load_before"]}
    pinned, unpinned = machine["pinned"], "not pinned on this system"
    if "store" in machine:
        used = "one, all threads pinned to it" if pinned else unpinned
        servers = "; servers have all" if pinned and machine["cores_used"] > 1 else ""
        facts["processor"] += f"; used: {used}{servers}"
        sync = machine["sync_ms"]
        facts |= {
            **{"store": machine["store"], "file system": machine["file_system"]},
            "sync of 32 KiB": sync and f"{sync:.3f} ms, median, without a store",
        }
    else:
        facts |= {
            "threads": f"{machine['threads']}, {'pinned' if pinned else unpinned}",
            "of their time the threads worked": f"{machine['processor_share'] or 0:.0%}",
            **{name: f"{rate:,.4g}" for name, rate in machine["rates"].items()},
            "time": f"{found['started']} to {found['ended']}",
        }
    facts["versions"] = versions_text(machine["versions"])
    return {name: text for name, text in facts.items() if text is not None}


def _table(
    title: str, rows: Sequence[Row], columns: Mapping[str, str | Callable[[Row], Any]]
) -> Table:
    """A line for each row; each column is a key of the rows, or computed from them."""
    lines = [
        [row[of] if isinstance(of, str) else of(row) for of in columns.values()] for row in rows
    ]
    return Table(title, [*columns], lines)


def _keys(rows: Sequence[Row]) -> dict[str, str]:
    """All keys of rows as columns, by their own names."""
    return {key: key for key in rows[0]} if rows else {}


def _met(row: Row) -> str:
    return "yes" if row["met"] else "no"


# ---- cost


def _cost_tables(found: Row) -> Iterator[Table]:
    """Times, memory and ratios by length, then what they add up to."""
    cells = found["cells"]
    for kind, peer in PEERS.items():
        yield by_system(cells, kind)
        for which in PASSES:
            own = [cell for cell in cells if kind in cell and cell["pass"] == which]
            yield _by_length(f"{kind}, {which}: milliseconds, median", kind, own, _time)
            if which != "step":
                yield _by_length(f"{kind}, {which}: peak memory in MiB", kind, own, _memory)
            own = [row for row in found["ratios"] if kind in row and row["pass"] == which]
            ceiling = " (in brackets: a free mixer)" * any(row.get("ceiling") for row in own)
            title = f"{kind}, {which}: times as fast as {peer}{ceiling}"
            yield _by_length(title, kind, own, _ratio)
    for kind, grows in (("bank", "slots"), ("loss", "catalog")):
        yield _table(
            f"{kind}: milliseconds, median (least to most)",
            [cell for cell in cells if kind in cell],
            {
                **{kind: kind, grows: lambda row: f"{size_of(row):,}"},
                **{"pass": "pass", "batch": "batch", "ms": _times, "peak MiB": _memory},
            },
        )
    system: dict[str, str | Callable[[Row], Any]] = {"of": _name, "pass": "pass"}
    yield _table(
        "growth: time ~ T^p, memory ~ T^q, fitted",
        found["exponents"],
        {
            **system,
            "p": lambda row: number(row["seconds"]),
            "q": lambda row: number(row["bytes"]),
            "events": lambda row: f"{row['from']:,} to {row['to']:,}",
        },
    )
    yield _table(
        "faster from how many events on",
        found["crossovers"],
        {**system, "than": "against", "events": _crossover},
    )
    yield _table(
        "distance to the machine's limit, long histories",
        found["limits"],
        {
            **system,
            "events": lambda row: f"{row['length']:,}",
            "ms": lambda row: _ms(row["seconds"]),
            "ms of operations": lambda row: _ms(row["operations_seconds"]),
            "ms of bytes": lambda row: _ms(row["bytes_seconds"]),
            "GFLOP/s": lambda row: number(row["gigaflops"]),
            "share": lambda row: f"{row['share']:.0%}",
        },
    )
    yield _table(
        "goals",
        found["goals"],
        {"goal": "goal", "measured": lambda row: number(row["measured"]), "met": _met},
    )
    yield _table(
        "not measured",
        found["skipped"],
        {**system, "size": lambda row: f"{size_of(row):,}", "why": "why"},
    )


def by_system(cells: Sequence[Row], kind: str, lengths: Sequence[int] = ()) -> Table:
    """A line for each mixer or model: its times by length, and at the longest all else.

    Parameters
    ----------
    cells : of a result of cost.
    kind : "mixer" or "model".
    lengths : that get a column, as far as measured; if none is given, the longest of all.
    """
    found = {(name, which): own for (of, name, which), own in curves(cells).items() if of == kind}
    known = sorted({length for own in found.values() for length in own})
    shown = [length for length in lengths if length in known] or known[-1:]
    if not shown:
        return Table("", [], [])
    at, peer, lines = shown[-1], found.get((PEERS[kind], BOTH), {}), []
    for name in dict.fromkeys(cell[kind] for cell in cells if kind in cell):
        forward, both, step = (found.get((name, which), {}) for which in PASSES)
        line = [name, *(_ms(_seconds(both.get(length))) for length in shown)]
        times, other = _seconds(both.get(at)), _seconds(peer.get(at))
        line.append(number(other / times) if times and other else "")
        line.append(_ms(_seconds(forward.get(at))))
        line.append(_memory(both[at]) if at in both else "")
        line.append(_ms(_seconds(step[max(step)])) if step else "")
        kept = next(iter(forward.values()), {}).get("state_bytes")
        lines.append([*line, "" if kept is None else size(kept)])
    columns = [kind, *(f"{BOTH}, ms at {length:,}" for length in shown)]
    columns += [f"times as fast as {PEERS[kind]} at {at:,}", f"forward, ms at {at:,}"]
    columns += [f"{BOTH}, MiB at {at:,}", "a step, ms", "state"]
    return Table(f"{kind}s, one line each", columns, lines)


def _seconds(row: Row | None) -> float | None:
    return None if row is None else float(row["seconds_median"])


def _by_length(title: str, kind: str, rows: Sequence[Row], text: Callable[[Row], str]) -> Table:
    """A line for each name, a column for each length."""
    texts = {(row[kind], row["length"]): text(row) for row in rows}
    names, lengths = dict.fromkeys(row[kind] for row in rows), sorted({key[1] for key in texts})
    lines = [[name, *(texts.get((name, length), "") for length in lengths)] for name in names]
    return Table(title, [kind, *(f"{length:,}" for length in lengths)], lines)


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


# ---- serving


def _known(value: float | None) -> float | str:
    return "" if value is None else value


def _serving_tables(found: Row) -> Iterator[Table]:
    """Cells, ratios, goals, and where the time goes."""
    cells, goals = found["cells"], found["goals"]
    columns: dict[str, str | Callable[[Row], Any]] = {
        key.removesuffix("_ms").replace("_", " "): key for key in cells[0]
    }
    columns["recall at 10"] = lambda row: _known(row["recall_at_10"])
    columns["pairs per second"] = lambda row: round(row["pairs_per_second"])
    yield _table("an event and a recommendation, in milliseconds", cells, columns)
    yield _table("ratios of medians, one client", found["ratios"], _keys(found["ratios"]))
    yield _table("goals, at the worst cell", goals, {**_keys(goals), "met": _met})
    where = itemgetter("catalog", "transport")
    for (catalog, transport), group in groupby(sorted(found["breakdown"], key=where), where):
        rows = list(group)
        parts = max((row["ms"] for row in rows), key=len)
        yield Table(
            f"{catalog:,} items, {transport}: where a pair's time goes, one client, "
            f"{rows[0]['of']} in milliseconds",
            ["part", *(f"{row['system']}, {row['durability']}" for row in rows)],
            [[part, *(_known(row["ms"].get(part)) for row in rows)] for part in parts],
        )


# ---- attacks


def _attack_tables(found: Row) -> Iterator[Table]:
    """What the innocent client saw beside each kind, what became of memory, and the goals."""
    yield _table(
        "an event and a recommendation of an innocent client, in milliseconds",
        found["cells"],
        {
            **{"hostile clients": "kind", "what each does": "does"},
            **{"p50, quiet": "quiet_p50_ms", "attacked": "attacked_p50_ms"},
            **{"p99, quiet": "quiet_p99_ms", "attacked ": "attacked_p99_ms", "times": "ratio"},
            "answers to the hostile": _answers,
        },
    )
    if found["memory"] is not None:
        yield _table(
            "resident memory and mixed requests",
            [found["memory"]],
            {
                **{"requests": "requests", "MiB after 5,000": "settled_mib"},
                **{"MiB in the end": "end_mib", "growth": "growth_mib"},
                **{"of files": "settled_files_mib", "of files in the end": "end_files_mib"},
                "answers": _answers,
            },
        )
    goals = found["goals"]
    yield _table("goals, at the worst", goals, {**_keys(goals), "met": _met})


def _answers(row: Row) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in row["answers"].items())
