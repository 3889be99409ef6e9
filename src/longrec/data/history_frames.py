"""Events of histories as people and other libraries read them: a frame of ids and moments."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from longrec.data.event_columns import Column
from longrec.data.times import day

MOMENT = pl.Datetime("ms", "UTC")
"""Holds every second that histories may have."""


def event_frame(
    items: pl.Series,
    times: np.ndarray | None,
    stored: Mapping[str, np.ndarray],
    columns: Mapping[str, Column],
) -> pl.DataFrame:
    """A row per event: item, time (UTC) where there are times, and the further columns.

    Parameters
    ----------
    items : polars.Series
        Their ids (n,).
    times : array or None
        (n,) seconds since 1970.
    stored : mapping
        Further columns (n,) as histories store them.
    columns : mapping
        What these hold.
    """
    frame = pl.DataFrame({"item": items})
    if times is not None:
        frame = frame.with_columns((pl.Series("time", times) * 1000).cast(MOMENT))
    for name, values in stored.items():
        words = columns[name].words
        column = pl.Series(name, values)
        if words is not None:
            codes = pl.select(pl.when(column >= 0).then(column)).to_series()
            column = pl.Series(name, words, dtype=pl.String).gather(codes.cast(pl.Int64))
        frame = frame.with_columns(column.alias(name))
    return frame


def span(first: float | None, last: float | None) -> str:
    """The days from one second since 1970 to another: "2018-09-24 to 2018-10-01"; "" without."""
    if first is None or last is None:
        return ""
    return f"{day(first)} to {day(last)}"
