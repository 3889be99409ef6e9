"""Histories that callers bring along: lists of items, frames of events, and files of both.

An event of a list is an item's id, or {"item": …, "time": …, "columns": {…}} as over HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from longrec.core.arguments import described
from longrec.core.arrays import Ints
from longrec.core.errors import UsageError
from longrec.core.format import listed
from longrec.data.catalog import Catalog
from longrec.data.event_columns import Columns
from longrec.data.frames import as_frame, is_parquet, read_parquet
from longrec.data.given_ids import as_names, check_ids, is_list
from longrec.data.given_rows import Problems, Row, find_name, is_file, opened, read_rows
from longrec.data.moments import seconds

WANTED = "a list of histories, each a list of item ids"
FIELDS = {"item", "time", "columns"}
NEEDS_COLUMNS = '{"item": …, "time": …, "columns": {…}}'


class GivenEvent(NamedTuple):
    """An event of a history that is given: item id, time, and further columns by name."""

    item: Any
    time: Any
    columns: Mapping[str, Any] | None = None


@dataclass
class GivenHistories:
    """Histories, one after the other.

    Attributes
    ----------
    users : (n,) whose they are: the names that they came with, or else numbers from 0.
    lengths : (n,) events of each.
    items : (m,) item ids, oldest first.
    times : (m,) int64 seconds since 1970, or None; an event that is earlier than one before it is
        taken for simultaneous with that one.
    columns : (m,) further columns of each event, empty where none has any.
    """

    users: pl.Series
    lengths: Ints
    items: Sequence[Any] | pl.Series
    times: Ints | None = None
    columns: list[Mapping[str, Any]] = field(default_factory=list)

    def read_columns(self, model: str, wanted: Columns) -> dict[str, np.ndarray]:
        """Columns that a model reads, (m,) each as it reads them.

        Raises
        ------
        UsageError
            When an event does not have one, or text stands where the model reads numbers.
        """
        found: dict[str, np.ndarray] = {}
        for name, column in wanted.items():
            values = []
            for number in range(len(self.items)):
                given = self.columns[number] if self.columns else {}
                if name not in given:
                    raise UsageError(
                        f"{model} reads {listed(wanted)} of each event, which these "
                        f"histories do not have: give users with data=, or events such as "
                        f"{NEEDS_COLUMNS}"
                    )
                try:
                    values.append(column.value(given[name]))
                except UsageError as error:
                    raise UsageError(f"the column {name!r} of an event: {error}") from None
            found[name] = np.array(values, column.dtype)
        return found

    def find_items(self, catalog: Catalog) -> Ints:
        """Item indices (m,) of the events; 0 where an item is unknown."""
        return catalog.find(self.items) if len(self.items) else np.zeros(0, np.int64)


def as_given_histories(given: Any, names: Mapping[str, str] | None = None) -> GivenHistories:
    """Histories as a list of lists, a frame of events, or a file.

    Parameters
    ----------
    given : list of lists, polars or pandas frame, Arrow table, path, or open file
        A frame has a row per event and the columns user and item, in the order of events or with a
        column time; so have CSV and Parquet. A file of JSON lines has such objects, or lists of
        items, or {"user": …, "history": […]}. Further columns of a frame or CSV are taken along.
    names : mapping or None
        What the columns user, item and time may be called beside the names that are recognised.

    Raises
    ------
    UsageError
        When it is none of these.
    DataError
        When a file cannot be read, or rows of it cannot be used.
    """
    if isinstance(given, GivenHistories):
        return given
    names = names or {}
    given = read_parquet(given) if is_parquet(given) else given
    if is_file(given):
        with opened(given) as (name, file):
            problems = Problems(name)
            rows = read_rows(file, "user", problems, stated=names.get("user"))
            return _of_rows(problems, rows, names)
    if isinstance(given, pl.LazyFrame) or hasattr(given, "columns"):
        frame = as_frame("histories", given)
        for role in ("user", "item"):
            if find_name(frame.columns, role, names.get(role)) is None:
                raise UsageError(
                    f"histories is a frame whose columns are {listed(frame.columns)}: none "
                    f"looks like the {role} ids, call one {role}"
                )
        rows = (Row(f"row {n}", row) for n, row in enumerate(frame.iter_rows(named=True), 1))
        problems = Problems("the frame of histories")
        problems.rows = len(frame)
        return _of_rows(problems, rows, names)
    if not is_list(given):
        raise UsageError(f"histories is {described(given)}; give {WANTED}")
    histories = [_events_of_list(f"histories.{n}", one) for n, one in enumerate(given)]
    return _joined(pl.Series(np.arange(len(histories))), histories)


def _events_of_list(name: str, history: Any) -> Any:
    """A history of a list: ids as they are, or events."""
    if not isinstance(history, list | tuple) or not any(isinstance(x, Mapping) for x in history):
        return check_ids(name, history, WANTED)
    events = list[GivenEvent]()
    for number, one in enumerate(history):
        event = _event(one)
        if isinstance(event, str):
            raise UsageError(f"{name}.{number} {event}")
        events.append(event)
    check_ids(name, [event.item for event in events], WANTED)
    return _checked_times(name, events)


def _event(given: Any) -> GivenEvent | str:
    """An event as over HTTP, an id or a mapping, or what is wrong with it."""
    if not isinstance(given, Mapping):
        return GivenEvent(given, None)
    odd = [key for key in given if key not in FIELDS]
    if odd:
        return f"has {odd[0]!r}; give {NEEDS_COLUMNS}"
    if "item" not in given:
        return f"has no item; give {NEEDS_COLUMNS}"
    return GivenEvent(given["item"], given.get("time"), given.get("columns"))


def _checked_times(name: str, events: list[GivenEvent]) -> list[GivenEvent]:
    """Events with their times as seconds; all have one, or none."""
    have = [event.time is not None for event in events]
    if not any(have):
        return events
    if not all(have):
        raise UsageError(f"{name}.{have.index(False)} has no time, others have: give one to each")
    return [event._replace(time=seconds(_moment(event.time))) for event in events]


def _of_rows(problems: Problems, rows: Iterable[Row], names: Mapping[str, str]) -> GivenHistories:
    """Histories of rows, each a history or an event of one."""
    users: list[Any] = []
    histories: list[list[GivenEvent]] = []
    of_events: dict[Any, list[GivenEvent]] = {}
    for place, value in rows:
        if isinstance(value, Mapping) and "history" not in value:
            user = value.get(find_name(value, "user", names.get("user")) or "")
            event = _event_of_row(problems, place, value, names)
            if event is not None and problems.check_id(place, "user", user):
                if user not in of_events:
                    users.append(user)
                    histories.append(of_events.setdefault(user, []))
                of_events[user].append(event)
        else:
            found = _history_of_row(problems, place, value)
            if found is not None:
                users.append(found[0])
                histories.append(found[1])
    problems.raise_if_any()
    named = [user is not None for user in users]
    if any(named) and not all(named):
        problems.add(f"row {named.index(False) + 1}", "has no user, others have: name all or none")
        problems.raise_if_any()
    for user, events in of_events.items():
        timed = [event.time is not None for event in events]
        if any(timed) and not all(timed):
            problems.add(f"user {user!r}", "has events with and without a time: give one to each")
        elif all(timed):
            events.sort(key=lambda event: event.time)
    problems.raise_if_any()
    return _joined(as_names(users) if all(named) else pl.Series(np.arange(len(users))), histories)


def _event_of_row(
    problems: Problems, place: str, value: Mapping[str, Any], stated: Mapping[str, str]
) -> GivenEvent | None:
    """An event of a row with user, item, perhaps time and further columns; None: it is none."""
    names = {role: find_name(value, role, stated.get(role)) for role in ("user", "item", "time")}
    lacking = [role for role in ("user", "item") if names[role] is None]
    if lacking:
        there = listed(value, "nothing")
        wanted = '{"user": …, "history": […]} or {"user": …, "item": …, "time": …}'
        problems.add(place, f"has no {' and no '.join(lacking)} (it has {there}); give {wanted}")
        return None
    item = value[names["item"] or ""]
    time = value[names["time"]] if names["time"] else None
    if not problems.check_id(place, "item", item):
        return None
    columns = {key: one for key, one in value.items() if key not in names.values()}
    if "columns" in columns and isinstance(columns["columns"], Mapping):
        columns |= columns.pop("columns")
    try:
        moment = None if time is None or time == "" else seconds(_moment(time))
    except UsageError as error:
        problems.add(place, str(error))
        return None
    return GivenEvent(item, moment, columns)


def _history_of_row(
    problems: Problems, place: str, value: Any
) -> tuple[Any, list[GivenEvent]] | None:
    """Whose history a row is, None if it does not say, and its events; None: it is none."""
    user = None
    if isinstance(value, Mapping):
        name = find_name(set(value) - {"history"}, "user")
        user = None if name is None else value[name]
        odd = sorted(set(value) - {name, "history"})
        if odd:
            problems.add(place, f"has {odd[0]!r}; beside a history there is only its user")
            return None
        if name is not None and not problems.check_id(place, "user", user):
            return None
        value = value["history"]
    if not isinstance(value, list):
        what = described(value)
        problems.add(place, f'is {what}; give ["item", …] or {{"user": …, "history": […]}}')
        return None
    events = []
    for number, one in enumerate(value):
        event = _event(one)
        if isinstance(event, str):
            problems.add(place, f"event {number} of the history {event}")
            return None
        if not problems.check_id(place, f"item {number} of the history", event.item):
            return None
        events.append(event)
    try:
        return user, _checked_times("history", events)
    except UsageError as error:
        problems.add(place, str(error))
        return None


def _moment(time: Any) -> Any:
    """A time as it is, or as text spells it: seconds, or a date and time of ISO 8601."""
    from datetime import datetime

    if not isinstance(time, str):
        return time
    for kind in (int, float, datetime.fromisoformat):
        try:
            return kind(time)
        except ValueError:
            continue
    return time


def _joined(users: pl.Series, histories: Sequence[Any]) -> GivenHistories:
    """Histories, each ids or events, as one."""
    lengths = np.array([len(history) for history in histories], np.int64)
    if not any(len(h) and isinstance(h[0], GivenEvent) for h in histories):
        return GivenHistories(users, lengths, [item for history in histories for item in history])
    events = [
        event if isinstance(event, GivenEvent) else GivenEvent(event, None)
        for history in histories
        for event in history
    ]
    times = None
    if events and all(event.time is not None for event in events):
        times = np.array([event.time for event in events], np.int64)
        for part in np.split(times, lengths.cumsum()[:-1]):
            np.maximum.accumulate(part, out=part)
    columns: list[Mapping[str, Any]] = [event.columns or {} for event in events]
    return GivenHistories(
        users, lengths, [event.item for event in events], times, columns if any(columns) else []
    )
