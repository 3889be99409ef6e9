"""Logs to events: which column is what, of which type, and whether every row can be used.

`read_events` looks at the whole log once, in a streaming pass, before anything is built from it:
the first row that cannot be used is named with its file, column and value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from longrec.core.arguments import check_names, check_text
from longrec.core.errors import DataError, UsageError
from longrec.core.shown import html_table
from longrec.data.columns import ROLES, find_columns, likely_type, missing, no_time, same_types
from longrec.data.event_columns import TYPE
from longrec.data.kept_values import INTEGER, Check, as_number, id_column, type_column
from longrec.data.sources import (
    ENGINE_ERRORS,
    Part,
    first_ragged_line,
    open_source,
    unreadable,
)
from longrec.data.times import (
    PER_SECOND,
    WORDS,
    band_counts,
    check_unit,
    detect_unit,
    implausible,
    time_column,
)


@dataclass(frozen=True, eq=False)
class Events:
    """A log that can be read: every row has been looked at, none is held in memory.

    Attributes
    ----------
    frame
        lazy rows in the log's own order: `user`, `item` (own types), `time` (Int64 or Float64
        ticks) if the log has one, `order` (a number) if one was named, and further columns.
    n_events
        number of rows.
    names
        column of each role: user, item, and perhaps time, order and type.
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
    """

    frame: pl.LazyFrame
    n_events: int
    names: dict[str, str]
    recognised: frozenset[str]
    time_unit: str | None
    per_second: int
    first_time: float | None
    last_time: float | None
    row_order: bool
    columns: tuple[str, ...]
    source: str
    notes: tuple[str, ...]

    def collect(self, lazy: pl.LazyFrame) -> pl.DataFrame:
        """Run a query on `frame` in bounded memory; what fails is told as a DataError."""
        try:
            return lazy.collect(engine="streaming")
        except ENGINE_ERRORS as error:
            raise unreadable(self.source, error) from error

    def describe(self) -> str:
        """What was read and how it was understood, as lines to print."""
        lines = [f"{self.source}: {self.n_events:,} events"]
        schema = self.frame.collect_schema()
        for role, name in self.names.items():
            how = "recognised" if role in self.recognised else "as named"
            lines.append(f"  {role:<6}{name} ({how}), {self._kind(role, schema[role])}")
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

    def _kind(self, role: str, dtype: pl.DataType) -> str:
        if role == "time" and self.first_time is not None and self.last_time is not None:
            unit = WORDS.get(self.time_unit or "", "datetimes")
            return f"{unit}, {_day(self.first_time)} to {_day(self.last_time)}"
        return "text" if dtype == pl.String else str(dtype).lower()


def read_events(
    source: Any,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    order: str | None = None,
    row_order: bool = False,
    time_unit: str | None = None,
    type: str | None = None,
    columns: Sequence[str] = (),
) -> Events:
    """Find a log's columns, check every row once, and return its events, still lazy.

    Parameters
    ----------
    source
        a CSV, TSV, Parquet or RecBole `.inter` file, a list of them, a glob, a folder, a Polars or
        pandas frame, or any Arrow table or stream; an `Events` is returned as it is.
    user, item, time
        names of the columns; without them, names such as userId, product_id or ts are recognised.
    order
        a column that orders each user's events; `time` then only gives their times.
    row_order
        the rows of the log are in the order of events.
    time_unit
        "s", "ms", "us" or "ns" instead of detecting it, and "datetime" for datetime columns;
        stating it also allows times before 1970 or after 2100.
    type
        column of the events' types, such as "view" and "buy": kept as the column "type", as text.
    columns
        further columns to keep for each event, such as a weight: numbers, booleans or text.

    Raises
    ------
    UsageError
        for a column that is not there, or options that contradict each other.
    DataError
        for a file or row that cannot be used.
    """
    if isinstance(source, Events):
        if any((user, item, time, order, row_order, time_unit, type, columns)):
            raise UsageError("These events are read already: give column options to read_events.")
        return source
    stated = {"user": user, "item": item, "time": time, "order": order}
    for name, value in (stated | {"time_unit": time_unit, "type": type}).items():
        check_text(name, value)
    columns = check_names("columns", columns)
    parts = open_source(source)
    first = parts[0]
    names, recognised = find_columns(first, stated)
    if row_order and order is not None:
        raise UsageError(
            "Either order= names a column or row_order=True says rows count, not both."
        )
    if not ({"time", "order"} & set(names) or row_order):
        raise UsageError(no_time(first))
    if time_unit is not None and "time" not in names:
        raise UsageError(f"time_unit={time_unit!r} was given, but {first.name} has no time column.")
    for name in columns:
        if name not in first.schema:
            raise UsageError(missing(first, name, "columns"))
        if name in ROLES:
            raise UsageError(f"columns may not hold {name!r}: rename it, the name is in use.")
    if type is not None and type not in first.schema:
        raise UsageError(missing(first, type, "type"))
    if type not in (None, TYPE) and TYPE in columns:
        raise UsageError(
            f"type={type!r} would be kept as the column {TYPE!r}, which columns= names, too: leave "
            "one out."
        )
    if type is not None or TYPE in columns:
        names[TYPE] = type or TYPE
        columns = columns if TYPE in columns else (TYPE, *columns)
    notes = []
    likely = None if TYPE in names else likely_type(first, [*names.values(), *columns])
    if likely is not None:
        notes.append(
            f"{likely} looks like the types of events: type={likely!r} (--type {likely}) keeps them"
        )
    parts = same_types(parts, [*names.values(), *(name for name in columns if name != TYPE)])
    return _survey(parts, names, recognised, row_order, time_unit, columns, notes)


def _survey(
    parts: list[Part],
    names: dict[str, str],
    recognised: frozenset[str],
    row_order: bool,
    time_unit: str | None,
    columns: tuple[str, ...],
    notes: list[str],
) -> Events:
    """One streaming pass over everything: counts, units, and the first row that cannot be used."""
    schema = parts[0].schema
    source = parts[0].name if len(parts) == 1 else f"{parts[0].name} … {parts[-1].name}"
    whole = pl.concat([part.frame for part in parts])
    checks = [
        Check(role, pl.col(name).is_null(), "is null (empty)")
        for role, name in names.items()
        if role != TYPE
    ]
    values, aggregates = {}, {"n": pl.len()}
    for role in ("user", "item"):
        values[role] = id_column(role, names[role], schema[names[role]], parts[0], checks)
        if parts[0].text:
            not_integer = ~pl.col(names[role]).str.contains(INTEGER)
            aggregates[f"{role} text"] = not_integer.sum()
    further = {name: pl.col(name) for name in columns if name != TYPE}
    if TYPE in names:
        further[TYPE] = type_column(names[TYPE], schema[names[TYPE]], parts[0], checks)
    if parts[0].text:  # which has no types: what spells numbers throughout is numbers
        for name in [name for name in further if name != TYPE]:
            aggregates[f"{name} given"] = pl.col(name).count()
            aggregates[f"{name} odd"] = pl.col(name).count() - as_number(name).count()
    plans = {}
    for role in [role for role in ("time", "order") if role in names]:
        raw, where = pl.col(names[role]), f"{parts[0].name}, column {names[role]!r}"
        sample = _sample(parts, names[role], schema[names[role]])
        plans[role] = plan = time_column(raw, schema[names[role]], sample, where)
        values[role] = plan.value
        checks.append(
            Check(
                role,
                raw.is_not_null() & plan.value.is_null(),
                f"is not readable as time (the column holds {plan.kind})",
            )
        )
        if plan.exact is not None:
            aggregates[f"{role} inexact"] = plan.exact.is_null().sum()
    if "time" in plans:
        check_unit(time_unit, plans["time"], f"{parts[0].name}, column {names['time']!r}")
        bands = band_counts(plans["time"].value)
        aggregates |= {f"time {unit}": count for unit, count in bands.items()}
        aggregates |= {"time first": values["time"].min(), "time last": values["time"].max()}
    aggregates |= {f"check {i}": check.bad.sum() for i, check in enumerate(checks)}
    found = _aggregate(parts, whole.select(**aggregates))
    if not found["n"]:
        raise DataError(f"{source} is empty: it has columns but no events.")
    for i, check in enumerate(checks):
        if found[f"check {i}"]:
            raise _first_bad(parts, names[check.role], check, found[f"check {i}"])

    per_second, unit = 1, time_unit
    for name in columns:
        if found.get(f"{name} odd") == 0 and found[f"{name} given"]:
            further[name] = as_number(name)
    for role in ("user", "item"):
        odd = found.get(f"{role} text")
        if odd == 0:
            values[role] = values[role].cast(pl.Int64)
        elif odd is not None and odd < found["n"]:
            notes.append(
                f"{odd:,} of {found['n']:,} values of {names[role]} are not integers: all are kept "
                "as text"
            )
    for role, plan in plans.items():
        if plan.exact is not None and not found[f"{role} inexact"]:
            values[role] = plan.exact
    if "time" in plans:
        plan = plans["time"]
        unit = plan.fixed or time_unit or detect_unit({u: found[f"time {u}"] for u in PER_SECOND})
        per_second = plan.per_second if plan.fixed else PER_SECOND[unit]
        if time_unit is None:
            _refuse_implausible(parts, names["time"], values["time"], unit, per_second)
    selected = [value.alias(role) for role, value in values.items()]
    return Events(
        frame=whole.select(*selected, *(further[name].alias(name) for name in columns)),
        n_events=found["n"],
        names=names,
        recognised=recognised,
        time_unit=unit,
        per_second=per_second,
        first_time=found["time first"] / per_second if "time" in plans else None,
        last_time=found["time last"] / per_second if "time" in plans else None,
        row_order=row_order,
        columns=columns,
        source=source,
        notes=tuple(notes),
    )


def _sample(parts: list[Part], name: str, dtype: pl.DataType) -> pl.Series:
    """The first thousand values of a text column that are not null; they decide how to read it."""
    if dtype != pl.String:
        return pl.Series(name, [], dtype=dtype)
    for part in parts:
        try:
            head = part.frame.select(name).drop_nulls().head(1000).collect(engine="streaming")
        except ENGINE_ERRORS as error:
            raise _unreadable(part, error) from error
        if head.height:
            return head[name]
    return pl.Series(name, [], dtype=dtype)


def _aggregate(parts: list[Part], query: pl.LazyFrame) -> dict[str, Any]:
    try:
        return query.collect(engine="streaming").row(0, named=True)
    except ENGINE_ERRORS as error:
        for part in parts:  # which of the files is it?
            try:
                part.frame.select(pl.all().count()).collect(engine="streaming")
            except ENGINE_ERRORS as own:
                raise _unreadable(part, own) from own
        raise unreadable(parts[0].name, error) from error


def _unreadable(part: Part, error: BaseException) -> DataError:
    line = first_ragged_line(part)
    if line:
        return DataError(f"{part.name}: {line}. Mend that line, or quote fields that hold commas.")
    return unreadable(part.name, error)


def _first_bad(parts: list[Part], name: str, check: Check, count: int) -> DataError:
    """The error for the first row, in the log's order, that fails a check."""
    for part in parts:
        rows = part.frame.with_row_index("__row").filter(check.bad)
        head = rows.select("__row", name).head(1).collect(engine="streaming")
        if head.height:
            row, value = head.row(0)
            shown = "" if value is None or value == "" else f" {value!r}"
            more = f" ({count:,} rows are like this)" if count > 1 else ""
            return DataError(
                f"{part.name}, column {name!r}, row {row + 1}:{shown} {check.says}{more}. Mend or "
                "drop such rows; rows are counted from 1 after the header."
            )
    return DataError(f"{parts[0].name}, column {name!r}: {count:,} rows {check.says}.")


def _refuse_implausible(
    parts: list[Part], name: str, value: pl.Expr, unit: str, per_second: int
) -> None:
    bad = implausible(value, per_second, known=unit == "datetime")
    for part in parts:
        rows = part.frame.select(name, __tick=value, __bad=bad).with_row_index("__row")
        head = rows.filter("__bad").head(1).collect(engine="streaming")
        if head.height:
            row, raw, tick, _ = head.row(0)
            words = WORDS.get(unit, "datetimes")
            raise DataError(
                f"{part.name}, column {name!r}, row {row + 1}: {raw!r} is no plausible time: "
                f"most values are {words}, and as such it is {_day(tick / per_second)}. Mend the "
                f"row, or state the unit with time_unit= (--time-unit), as {unit!r}, to accept it."
            )


def _day(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.3g} seconds from 1970"
