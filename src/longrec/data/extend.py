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
    old: Histories, new: pl.DataFrame, labels: dict[str, list[str]], report: Callable[[str], None]
) -> tuple[pl.DataFrame, int]:
    """Events of both logs in order of users and time, and how many duplicates were left out.

    Parameters
    ----------
    old
        the histories.
    new
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
    for name, column in old.extra.items():
        found = new[name].to_numpy().dtype
        if column.dtype.kind != found.kind:
            raise DataError(
                f"column {name!r} is {column.dtype} in {old.path} and {found} in the new log: "
                "convert one."
            )
    users = np.repeat(np.arange(old.n_users, dtype=np.int32), old.lengths)
    times = {} if old.times is None else {"time": old.times}
    known = pl.DataFrame({"user": users, "item": old.items - np.int32(1), **times, **old.extra})
    total = len(new)
    if times:
        new = _without_duplicates(known, new)
        report(f"  skipped {total - len(new):,} events that {old.path} holds already")
    # A log may be in an order of its own (order=, row_order=), which is kept whatever its times:
    # an event then counts as happening no earlier than those before it.
    clock = pl.col("time").cum_max().over("user") if times else pl.lit(0)
    known, new = (events.with_columns(__clock=clock) for events in (known, new))
    latest = known.group_by("user").agg(__latest=pl.col("__clock").max())
    late = new.join(latest, on="user").filter(pl.col("__clock") < pl.col("__latest")).height
    if late:
        report(
            f"  {late:,} events are older than their user's last event in {old.path}: they take "
            "their place in time"
        )
    both = pl.concat([known, new.select(known.columns)], how="vertical_relaxed")
    both = both.sort("user", "__clock", maintain_order=True)  # ties: the old come first
    return both.drop("__clock"), total - len(new)


def _without_duplicates(known: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """The new events that the old log does not hold.

    An event that occurs m times in the old log and n times in the new one is new n - m times.
    """
    key = ["user", "item", "time"]
    overlap = known.filter(pl.col("time") >= new["time"].min())  # only these can be in both
    counts = overlap.group_by(key).len("__known")
    numbered = new.with_columns(__number=pl.int_range(pl.len()).over(key))
    counted = numbered.join(counts, on=key, how="left", maintain_order="left")
    fresh = counted.filter(pl.col("__number") >= pl.col("__known").fill_null(0))
    return fresh.drop("__number", "__known")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
