"""Frames of events as rows to be logged, which are checked as a whole first."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from longrec.core.errors import DataError, UsageError
from longrec.data.read import Events, read_events
from longrec.data.sources import open_source
from longrec.data.times import to_seconds
from longrec.serving.stores.protocol import Event
from longrec.serving.stream.id_keys import MAX_SECONDS, ItemIndex, keys_of
from longrec.serving.stream.writer import Entry

EVENT_ID = "event_id"


def read_rows(
    frame: Any,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    event_id: str | None = None,
    time_unit: str | None = None,
) -> pl.DataFrame:
    """The events of a frame, all of which can be logged, as columns user, item, time (, event_id).

    Parameters and errors are those of `Stream.observe_many`; ids are keys, times are seconds.
    """
    events = frame
    if not isinstance(events, Events):
        if isinstance(frame, str | list | tuple) or hasattr(frame, "__fspath__"):
            raise UsageError("give a frame; of files that is longrec.read_events(files)")
        [part] = open_source(frame)
        if event_id is None and EVENT_ID in part.schema:
            event_id = EVENT_ID
        if part.frame.head(1).collect().is_empty():
            return pl.DataFrame()
        events = read_events(
            part,
            user=user,
            item=item,
            time=time,
            time_unit=time_unit,
            row_order=True,
            columns=() if event_id is None else (event_id,),
        )
    elif event_id is None and EVENT_ID in events.columns:
        event_id = EVENT_ID
    if "time" not in events.names:
        raise UsageError(
            "no column looks like the time of events, which a stream needs. Name it with time="
        )
    read = events.collect(events.frame)
    times = to_seconds(read["time"].to_numpy(), events.per_second)
    far = np.flatnonzero(np.abs(times) > MAX_SECONDS)
    if len(far):
        raise DataError(
            f"column {events.names['time']!r}, row {far[0] + 1}: {times[far[0]]:,} seconds are "
            "no plausible time: name the unit with time_unit="
        )
    columns = [
        keys_of(read["user"].alias(events.names["user"]), "user").alias("user"),
        keys_of(read["item"].alias(events.names["item"]), "item").alias("item"),
        pl.Series("time", times),
    ]
    if event_id is not None:
        columns.append(keys_of(read[event_id], "event_id").alias(EVENT_ID))
    return pl.DataFrame(columns)


def entries_of(rows: pl.DataFrame, items: ItemIndex) -> list[Entry]:
    """Rows of `read_rows` as events to be logged, in their order."""
    users, keys, times = (rows[name].to_list() for name in ("user", "item", "time"))
    ids = rows[EVENT_ID].to_list() if EVENT_ID in rows.columns else [None] * len(rows)
    return list(map(Entry, users, map(Event, times, keys, ids), items.find(keys)))
