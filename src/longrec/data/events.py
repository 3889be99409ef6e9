"""Events: a log that was read, whose rows lie in the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from longrec.core.shown import html_table
from longrec.data.bad_rows import BadRow
from longrec.data.engine import Engine
from longrec.data.history_frames import span
from longrec.data.times import WORDS
from longrec.data.types import shown


@dataclass(frozen=True, eq=False)
class Events:
    """A log that was read: every row has been looked at; the rows lie in the engine, not here.

    Attributes
    ----------
    engine
        holds the table `events`: `user`, `item` (own types), `time` (ticks, BIGINT or DOUBLE) if
        the log has one, `order` (a number) if one was named, and further columns; `row` rises in
        the log's own order.
    n_events
        number of rows.
    names
        column of each role: user, item, and perhaps time, order and type.
    types
        the engine's type of each column of `events`.
    recognised
        the roles whose column was found by its name rather than stated.
    time_unit, per_second
        unit of the log's times ("s", "ms", "us", "ns" or "datetime"; None without a time) and
        ticks of `time` in a second.
    first_time, last_time
        in seconds since 1970, None without a time.
    row_order
        whether the order of rows is the order of events.
    columns
        further event columns, "type" among them if there are types.
    source, notes
        the log's name; remarks that a user should see.
    bad_rows
        rows that were left out (`skip_bad_rows`), with file, line and cause.
    options
        what `read_events` was told, for whoever reads the next day's log.
    """

    engine: Engine
    n_events: int
    names: dict[str, str]
    types: dict[str, str]
    recognised: frozenset[str]
    time_unit: str | None
    per_second: int
    first_time: float | None
    last_time: float | None
    row_order: bool
    columns: tuple[str, ...]
    source: str
    notes: tuple[str, ...]
    bad_rows: tuple[BadRow, ...]
    options: Mapping[str, Any]

    def to_polars(self) -> pl.DataFrame:
        """All events in the log's order: user, item, time (ticks), order, further columns."""
        found = self.engine.frame("SELECT * EXCLUDE (row) FROM events ORDER BY row")
        return found.rename({f"x{i}": name for i, name in enumerate(self.columns)})

    def describe(self) -> str:
        """What was read and how it was understood, as lines to print."""
        lines = [f"{self.source}: {self.n_events:,} events"]
        for role, name in self.names.items():
            how = "recognised" if role in self.recognised else "as named"
            lines.append(f"  {role:<6}{name} ({how}), {self._kind(role)}")
        if self.row_order:
            order = "the order of rows"
        elif "order" in self.names:
            order = f"by {self.names['order']}"
        else:
            order = "by time, ties in the order of rows"
        lines.append(f"  order {order}")
        if further := [name for name in self.columns if name not in self.names]:
            lines.append(f"  also  {', '.join(further)}")
        return "\n".join([*lines, *(f"  note  {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"Events({self.source!r}: {self.n_events:,} events of {', '.join(self.names)})"

    def _repr_html_(self) -> str:
        title, *lines = self.describe().splitlines()
        return html_table(title, ("", ""), [line.strip().split(maxsplit=1) for line in lines])

    def _kind(self, role: str) -> str:
        if role == "time":
            days = span(self.first_time, self.last_time)
            return f"{WORDS.get(self.time_unit or '', 'datetimes')}, {days}"
        return shown(self.types[role])
