"""Results as tables, printed for people or written as Markdown for documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from longrec.core import console
from longrec.core.format import number
from longrec_bench.measurement import Row


class Table(NamedTuple):
    """A title, the columns' names, and lines of plain values."""

    title: str
    columns: list[str]
    lines: list[list[Any]]


def table(
    title: str, rows: Sequence[Row], columns: Mapping[str, str | Callable[[Row], Any]]
) -> Iterator[Table]:
    """A table with a line for each row; none where there are no rows.

    Parameters
    ----------
    columns : for each column's name the row's key, or what computes the value from the row.
    """
    if rows:
        values = columns.values()
        lines = [[row[of] if isinstance(of, str) else of(row) for of in values] for row in rows]
        yield Table(title, [*columns], lines)


def all_keys(rows: Sequence[Row]) -> dict[str, str]:
    """Columns for `table`: all keys of the rows, by their own names."""
    return {key: key for key in rows[0]} if rows else {}


def yes_or_no(row: Row) -> str:
    """Whether a goal's row is met."""
    return "yes" if row["met"] else "no"


def print_result(
    found: dict[str, Any],
    as_json: bool,
    tables: Callable[[dict[str, Any]], Iterable[Table]],
    facts: Callable[[dict[str, Any]], Mapping[str, object]],
) -> None:
    """Print rows for programs; or tables, what is known of the machine, and how it was measured."""
    if as_json:
        console.print_json(found["cells"])
        return
    for one in tables(found):
        console.table(one.title, one.columns, one.lines)
    console.facts_table("machine", facts(found))
    for line in found["method"]:
        console.print_text(f"- {line}")


def as_markdown(table: Table) -> str:
    """A table in Markdown: whole numbers with commas, others with three digits that count."""
    lines = [table.columns, ["---"] * len(table.columns)]
    lines += [[number(value) for value in line] for line in table.lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
