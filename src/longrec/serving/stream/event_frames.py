"""Frames of events as rows to be logged, which are checked as a whole first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from polars import selectors as cs

from longrec.core.arguments import check_names, check_text
from longrec.core.errors import DataError, UsageError
from longrec.core.format import listed
from longrec.data.events import Events
from longrec.data.frames import as_frame
from longrec.data.moments import MAX_SECONDS
from longrec.data.read import read_events
from longrec.data.times import to_seconds
from longrec.serving.stores.packed_columns import pack_columns
from longrec.serving.stores.protocol import Event
from longrec.serving.stream.id_keys import ItemIndex, keys_of
from longrec.serving.stream.writer import Entry

EVENT_ID = "event_id"


def read_rows(
    frame: Any,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    event_id: str | None = None,
    time_unit: str | None = None,
    columns: Sequence[str] | None = None,
    reads: Sequence[str] = (),
) -> pl.DataFrame:
    """The events of a frame, all of which can be logged: user, item, time, columns (, event_id).

    Parameters and errors are those of `Stream.observe_many`; ids are keys, times are seconds,
    further columns are packed. `reads` are the columns that the model reads.
    """
    if columns is not None:
        columns = check_names("columns", columns)
    check_text("event_id", event_id)
    events = frame
    if not isinstance(events, Events):
        if isinstance(frame, str | list | tuple) or hasattr(frame, "__fspath__"):
            raise UsageError("give a frame; of files that is longrec.read_events(files)")
        given = as_frame("frame", frame)
        if event_id is None and EVENT_ID in given.columns:
            event_id = EVENT_ID
        if given.is_empty():
            return pl.DataFrame()
        columns = tuple(reads if columns is None else columns)
        events = read_events(
            given,
            user=user,
            item=item,
            time=time,
            time_unit=time_unit,
            row_order=True,
            columns=(*columns, *(() if event_id is None else (event_id,))),
        )
    else:
        if event_id is None and EVENT_ID in events.columns:
            event_id = EVENT_ID
        if columns is None:
            columns = [name for name in events.columns if name != event_id]
        for name in columns:
            if name not in events.columns:
                there = listed(events.columns)
                raise UsageError(
                    f"these events were read without the column {name!r} (with {there}): name it "
                    "in read_events"
                )
    lacking = [name for name in reads if name not in columns]
    if lacking:
        raise UsageError(
            f"the model reads {listed(reads)} of each event, and the events come without "
            f"{listed(lacking)}: name it in columns="
        )
    if "time" not in events.names:
        raise UsageError(
            "no column looks like the time of events, which a stream needs. Name it with time="
        )
    read = events.to_polars()
    times = to_seconds(read["time"].to_numpy(), events.per_second)
    far = np.flatnonzero(np.abs(times) > MAX_SECONDS)
    if len(far):
        raise DataError(
            f"column {events.names['time']!r}, row {far[0] + 1}: {times[far[0]]:,} seconds are "
            "no plausible time: name the unit with time_unit="
        )
    found = [
        keys_of(read["user"].alias(events.names["user"]), "user").alias("user"),
        keys_of(read["item"].alias(events.names["item"]), "item").alias("item"),
        pl.Series("time", times),
        _packed(read, columns),
    ]
    if event_id is not None:
        found.append(keys_of(read[event_id], "event_id").alias(EVENT_ID))
    return pl.DataFrame(found)


def _packed(read: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """Further columns of events as they are logged; a number that is none is left out."""
    if not columns:
        return pl.Series("columns", [b""]).new_from_index(0, len(read))
    given, packed = read.select(columns).with_columns(cs.float().fill_nan(None)), []
    for number, row in enumerate(given.iter_rows(named=True), 1):
        try:
            packed.append(pack_columns(row))
        except UsageError as error:
            raise DataError(f"row {number}: {error}") from None
    return pl.Series("columns", packed, dtype=pl.Binary)


def entries_of(rows: pl.DataFrame, items: ItemIndex) -> list[Entry]:
    """Rows of `read_rows` as events to be logged, in their order."""
    users, keys, times = (rows[name].to_list() for name in ("user", "item", "time"))
    ids = rows[EVENT_ID].to_list() if EVENT_ID in rows.columns else [None] * len(rows)
    columns = rows["columns"].to_list()
    return list(map(Entry, users, map(Event, times, keys, ids, columns), items.find(keys)))
