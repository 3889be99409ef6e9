"""Values that cannot be used: a check of a loaded log, and the rows that it refuses.

The first of them is an error with its file, line and value; or all are kept apart.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from longrec.core.errors import DataError
from longrec.data.bad_rows import BadRow
from longrec.data.load import Loader
from longrec.data.log_times import LogTimes
from longrec.data.text_files import lines_of_rows
from longrec.data.times import WORDS, day
from longrec.data.types import is_untyped


@dataclass(frozen=True)
class Check:
    """Rows that may not be.

    Attributes
    ----------
    key : the column that it is about, by role or name.
    bad : the condition in SQL, over the table `raw`.
    says : what is wrong with them; "": they are null, or could not be loaded.
    times : of times that are read and no plausible ones.
    """

    key: str
    bad: str
    says: str = ""
    times: LogTimes | None = None


def refusal(loader: Loader, check: Check, count: int) -> DataError:
    """The error for the first of `count` rows that a check refuses."""
    [(number, row, ticks, _)] = _rows(loader, check, (), " LIMIT 1")
    part, (name, _) = loader.parts[number], loader.wanted[check.key]
    value = _original(loader, check, number, row)
    line = next(islice(_lines(loader, number), row - 1, None), None)
    more = f" (line {line})" if line else ""
    more += f" ({count:,} rows are like this)" if count > 1 else ""
    where = f"{part.name}, column {name!r}, row {row}"
    if check.times is not None:
        unit = check.times.unit
        return DataError(
            f"{where}: {value!r} is no plausible time: most values are "
            f"{WORDS.get(unit, 'datetimes')}, and as such it is "
            f"{day(ticks / check.times.per_second)}{more}. Mend the row, or state the unit with "
            f"time_unit= (--time-unit), as {unit!r}, to accept it."
        )
    shown = "" if value is None or value == "" else f" {value!r}"
    return DataError(
        f"{where}:{shown} {_wrong(check, value)}{more}. Mend such rows, or leave them out with "
        "skip_bad_rows=True (--skip-bad-rows); rows are counted from 1 after the header."
    )


def refused(loader: Loader, check: Check, earlier: Sequence[Check]) -> list[BadRow]:
    """All rows that a check refuses and none before it."""
    says = f"{loader.wanted[check.key][0]} {check.says or 'is null or empty'}"
    rows = _rows(loader, check, earlier)
    lines: dict[tuple[int, int], int] = {}
    for number in {number for number, *_ in rows}:
        own = {row for part, row, *_ in rows if part == number}
        for row, line in enumerate(_lines(loader, number), 1):
            if row in own:
                lines[number, row] = line
    return [
        BadRow(loader.parts[part].name, lines.get((part, row), row), says, text)
        for part, row, _, text in rows
    ]


def _rows(
    loader: Loader, check: Check, earlier: Sequence[Check], limit: str = ""
) -> list[tuple[int, int, Any, str]]:
    """Part, row in its part (from 1), ticks and text of such rows, in order."""
    ticks = "NULL" if check.times is None else check.times.ticks
    values = (f"coalesce({one}::VARCHAR, '')" for one in loader.raw.values())
    only = " AND ".join([f"({check.bad})", *(f"NOT coalesce({one.bad}, false)" for one in earlier)])
    found = loader.engine.run(
        f"SELECT part, rowid, {ticks}, concat_ws(',', {', '.join(values)}) FROM raw "
        f"WHERE {only} ORDER BY rowid{limit}"
    )
    firsts = list(loader.starts)

    def in_part(row: int) -> int:
        first = firsts[bisect_right(firsts, row) - 1]
        return row - first + loader.starts[first] + 1

    return [(part, in_part(row), tick, text) for part, row, tick, text in found]


def _original(loader: Loader, check: Check, number: int, row: int) -> Any:
    """The value of the first row that a check refuses, as the log has it."""
    part, (name, _) = loader.parts[number], loader.wanted[check.key]
    if is_untyped(part, name):
        value = f"SELECT {loader.raw[check.key]} FROM raw WHERE {check.bad} ORDER BY rowid LIMIT 1"
    else:
        column, scan = part.column(name, loader.names), part.scan(loader.engine, loader.names)
        value = f"SELECT {column} FROM {scan} LIMIT 1 OFFSET {row - 1}"
    return loader.engine.run(value)[0][0]


def _wrong(check: Check, value: Any) -> str:
    """What is wrong with a value."""
    is_id = check.key in ("user", "item")
    if value is None:
        return "is null (empty)"
    if isinstance(value, str) and not value.strip():
        return "is an empty id" if is_id else "is null (empty)"
    return check.says or (
        "is a float that is no whole number, so no id" if is_id else "is not readable as time"
    )


def _lines(loader: Loader, number: int) -> Iterable[int]:
    """The line of each row of a text file; nothing where lines do not count."""
    part = loader.parts[number]
    if not part.untyped:
        return ()
    left_out = loader.engine.run("SELECT line FROM bad WHERE part = ?", [number])
    without = {line for (line,) in left_out}
    goes_on = loader.goes_on.get(number, False)
    return lines_of_rows(loader.file(number), part.dialect, goes_on, without)
