"""Frames of events as rows to be logged: looked at as a whole first, then taken some at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from longrec.core.errors import DataError, UsageError
from longrec.data.read import Events, read_events
from longrec.data.sources import open_source
from longrec.data.times import to_seconds
from longrec.serving.stores.protocol import Event
from longrec.serving.stream.id_keys import FAR, ItemIndex, keys_of
from longrec.serving.stream.writer import Entry

EVENT_ID = "event_id"


class EventFrame:
    """Events of a frame, all of which can be logged.

    Parameters
    ----------
    frame : polars or pandas frame, Arrow table or stream, or Events
    user, item, time, event_id : str or None
        Names of columns; those of None are recognised, "event_id" by that very name.
    time_unit : str or None
        Instead of detecting it; see `longrec.read_events`.

    Raises
    ------
    UsageError
        When a column is missing, or this is no frame.
    DataError
        When a row cannot be an event; the message names column and row.
    """

    def __init__(
        self,
        frame: Any,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        event_id: str | None = None,
        time_unit: str | None = None,
    ) -> None:
        events = frame
        if not isinstance(events, Events):
            if isinstance(frame, str | list | tuple) or hasattr(frame, "__fspath__"):
                raise UsageError("give a frame; of files that is longrec.read_events(files)")
            [part] = open_source(frame)
            if event_id is None and EVENT_ID in part.schema:
                event_id = EVENT_ID
            if part.frame.head(1).collect().is_empty():
                self._columns = pl.DataFrame()
                return
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
        far = np.flatnonzero(np.abs(times) > FAR)
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
        self._columns = pl.DataFrame(columns)

    def __len__(self) -> int:
        return len(self._columns)

    def rows(self, items: ItemIndex, start: int, many: int) -> list[Entry]:
        """Some of the events, in the order of the frame."""
        part = self._columns[start : start + many]
        users, keys, times = (part[name].to_list() for name in ("user", "item", "time"))
        names = part[EVENT_ID].to_list() if EVENT_ID in part.columns else [None] * len(part)
        return list(map(Entry, users, map(Event, times, keys, names), items.find(keys)))
