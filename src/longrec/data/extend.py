"""New events behind old histories: who and what was known keeps its index, the new is appended.

A history is what a model knows of a user, so that a log of today's events alone would make a
stranger of everybody. Old and new events of a user are merged by time, an old event before a new
one of the same second, and neither log's own order is ever changed. Events that both logs hold are
taken once, so that overlapping exports do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import polars as pl

from longrec.core.errors import DataError, UsageError
from longrec.data.histories import Histories
from longrec.data.read import Events

Columns = dict[str, np.ndarray]  # event columns by name, all of one length
NEVER = np.iinfo(np.int64).min  # before any time


def fit_events(events: Events, old: Histories) -> Events:
    """The events with ids of the histories' types.

    Integers of another width become theirs, and integers become text where theirs is text.

    Raises
    ------
    DataError
        When the ids are of another kind, or one log has times and the other has none.
    UsageError
        When the event columns are not those of the histories.
    """
    if set(events.columns) != set(old.extra):
        raise UsageError(
            f"{old.path} has the event columns {_listed(old.extra)}, and {events.source} was read "
            f"with {_listed(events.columns)}: name the same with columns= (--column)."
        )
    if (old.times is None) != (events.time_unit is None):
        having, lacking = (
            (events.source, old.path) if old.times is None else (old.path, events.source)
        )
        raise DataError(
            f"{having} has times and {lacking} has none: give both logs times, or prepare both "
            "without (leave the time column out and use --row-order or --order)."
        )
    frame, schema = events.frame, events.frame.collect_schema()
    for role, ids in (("user", old.user_ids), ("item", old.catalog.ids)):
        theirs, ours = schema[role], ids.dtype
        if theirs == ours:
            continue
        if not (theirs.is_integer() and (ours.is_integer() or ours == pl.String)):
            raise DataError(
                f"{events.source}: the {role} ids are of type {theirs}, those of {old.path} are "
                f"{ours}: no {role} would be known again. Convert the column "
                f"{events.names[role]!r}."
            )
        cast = pl.col(role).cast(ours, strict=False)
        if events.collect(frame.select(cast.is_null().sum())).item():
            raise DataError(
                f"{events.source}: a {role} id does not fit the type {ours} of {old.path}. Prepare "
                f"the old log again with a wider type of {events.names[role]!r}."
            )
        frame = frame.with_columns(cast)
    return replace(events, frame=frame)


def known_first(old: pl.Series, found: pl.Series) -> pl.Series:
    """Old ids in their order, then those of `found` that are new, in theirs."""
    return pl.concat([old, found.filter(~found.is_in(old.implode())).rename(old.name)])


def merge(
    old: Histories, columns: Columns, labels: dict[str, list[str]], report: Callable[[str], None]
) -> tuple[Columns, int]:
    """Columns of both logs' events in order of users and time, and how many duplicates were left.

    Parameters
    ----------
    old
        the histories.
    columns
        new events in order, `user` and `item` as rows of ids that begin with the old ones.
    labels
        words of the new events' text columns, which begin with the old ones.
    report
        is called with lines on what was skipped and what came late.
    """
    if set(labels) != set(old.meta.labels):
        raise DataError(
            f"{old.path} has text in the event columns {_listed(old.meta.labels)}, the new log in "
            f"{_listed(labels)}: convert them to one type."
        )
    users = np.repeat(np.arange(old.n_users, dtype=np.int32), old.lengths)
    times = {} if old.times is None else {"time": old.times}
    before = {"user": users, "item": old.items - np.int32(1), **times, **old.extra}
    for name in old.extra:
        if before[name].dtype.kind != columns[name].dtype.kind:
            raise DataError(
                f"column {name!r} is {before[name].dtype} in {old.path} and {columns[name].dtype} "
                "in the new log: convert one."
            )
    duplicates = 0
    if "time" in columns:
        fresh = ~_duplicated(before, columns)
        duplicates = int(len(fresh) - fresh.sum())
        columns = {name: column[fresh] for name, column in columns.items()}
        report(f"  skipped {duplicates:,} events that {old.path} holds already")
    clocks = [_clock(part) for part in (before, columns)]
    latest = np.full(1 + max(part["user"].max(initial=0) for part in (before, columns)), NEVER)
    latest[before["user"]] = clocks[0]  # assigned in order, so that the user's last one stays
    late = int((clocks[1] < latest[columns["user"]]).sum())
    if late:
        report(
            f"  {late:,} events are older than their user's last event in {old.path}: they take "
            "their place in time"
        )
    merged = {name: np.concatenate([before[name], columns[name]]) for name in before}
    order = np.lexsort((np.concatenate(clocks), merged["user"]))  # stable: the old come first
    return {name: column[order] for name, column in merged.items()}, duplicates


def _duplicated(before: Columns, columns: Columns) -> np.ndarray:
    """Mask of the new events that the old log holds, (n,).

    An event that occurs m times in the old log and n times in the new one is new n - m times.
    """
    keys = ["user", "item", "time"]
    begin = columns["time"].min(initial=np.iinfo(np.int64).max)
    overlap = before["time"] >= begin  # only these can be in both
    known = pl.DataFrame({key: before[key][overlap] for key in keys}).group_by(keys).len("known")
    new = pl.DataFrame({key: columns[key] for key in keys})
    counted = new.with_columns(number=pl.int_range(pl.len()).over(keys)).join(
        known, on=keys, how="left", maintain_order="left"
    )
    mask: np.ndarray = (counted["number"] < counted["known"].fill_null(0)).to_numpy()
    return mask


def _clock(columns: Columns) -> np.ndarray:
    """The latest time up to each event of its user, (n,); one moment for all without times.

    A log may be in an order of its own (order=, row_order=): so its order is kept whatever it is.
    """
    if "time" not in columns:
        return np.zeros(len(columns["user"]), dtype=np.int64)
    frame = pl.DataFrame({"user": columns["user"], "time": columns["time"]})
    return frame.select(pl.col("time").cum_max().over("user")).to_series().to_numpy()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
