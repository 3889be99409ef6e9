"""Events to histories: ids to indices, events to order, and what is left out to counts.

The log streams through twice: once for its distinct ids, once to map them. In memory is then one
int32 for the user, one for the item and the time of each event; never the ids of events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from longrec.core.arguments import check_path, described
from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import Catalog
from longrec.data.extend import fit_events, known_first, merge
from longrec.data.histories import HISTORIES, Histories, as_histories, write_histories
from longrec.data.read import Events, read_events
from longrec.data.times import to_seconds


def prepare(
    source: Any,
    out: Path | str,
    *,
    k_core: int = 0,
    dedup: bool = False,
    min_length: int = 1,
    extend: Histories | Path | str | None = None,
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
    **read_options: Any,
) -> Histories:
    """Read a log, order it into histories, and write them to a folder.

    Parameters
    ----------
    source
        `Events`, or whatever `read_events` takes; `read_options` go there.
    out
        the folder to write; it may not exist unless `overwrite` and it holds histories.
    dedup
        keep only the first event of each user with each item (repeats are kept by default).
    k_core
        drop users and items with fewer events than this, again and again until none is left; 0
        keeps all. Events are counted, so repeats count.
    min_length
        drop histories with fewer events, after the others.
    extend
        histories (or their folder) that the log continues: the result holds both. Old users and
        items keep their index; events that the histories hold already are skipped and counted.
        The filters do not combine with it.
    report
        is called with each line that tells what was read and what was dropped.

    Returns
    -------
    Histories
        opened; `meta.dropped` counts what each filter left out.
    """
    for name, value in (("k_core", k_core), ("min_length", min_length)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise UsageError(f"{name} is a whole number from 0, not {value!r}.")
    out = check_path("out", out)
    if report is not None and not callable(report):
        raise UsageError(f"report is {described(report)}; give a function of a line, or None")
    HISTORIES.check_replaceable(out, overwrite=overwrite)
    old = None if extend is None else as_histories("extend", extend)
    if old is not None:
        if k_core > 1 or dedup or min_length > 1:
            raise UsageError(
                "k_core, dedup and min_length do not combine with extend, since an old user or "
                "item could lose its index: leave them out, or prepare both logs together."
            )
        old.verify()  # a damaged byte would get a fresh fingerprint
    events = read_events(source, **read_options)
    report = report or (lambda line: None)
    report(events.describe())
    dropped: dict[str, int] = {}
    if old is None:
        user_ids, item_ids = _distinct(events, "user"), _distinct(events, "item")
        frame, labels = _collect(events, user_ids, item_ids, {})
        if dedup:
            first = frame.unique(["user", "item"], keep="first", maintain_order=True)
            dropped["repeated_events"] = len(frame) - len(first)
            frame = first
        for reason, least, select in (
            ("k_core", k_core, _core),
            ("short", min_length, _long_enough),
        ):
            if least > 1:
                rest = select(frame, least)
                dropped[f"{reason}_events"] = len(frame) - len(rest)
                for role in ("user", "item"):
                    dropped[f"{reason}_{role}s"] = frame[role].n_unique() - rest[role].n_unique()
                frame = rest
        losses = {name.replace("_", " "): count for name, count in dropped.items()}
        if not len(frame):
            counts = ", ".join(f"{count:,} {name}" for name, count in losses.items())
            raise DataError(
                f"{events.source}: the filters leave no event (dropped: {counts}). Lower k_core or "
                "min_length."
            )
        for name, count in losses.items():
            report(f"  dropped {count:,} {name}")
        frame, user_ids = _reindex(frame, "user", user_ids)
        frame, item_ids = _reindex(frame, "item", item_ids)
    else:
        events = fit_events(events, old)
        user_ids = known_first(old.user_ids, _distinct(events, "user"))
        item_ids = known_first(old.catalog.ids, _distinct(events, "item"))
        frame, labels = _collect(events, user_ids, item_ids, old.meta.labels)
        frame, duplicates = merge(old, frame, labels, report)
        duplicates += old.meta.dropped.get("duplicate_events", 0)
        dropped = old.meta.dropped | {"duplicate_events": duplicates}
        report(
            f"  beside {old.path}: {len(user_ids) - old.n_users:,} new users, "
            f"{len(item_ids) - old.n_items:,} new items, "
            f"{len(frame) - old.n_events:,} new events"
        )
    columns = {column.name: column.to_numpy() for column in frame}
    lengths = np.bincount(columns.pop("user"), minlength=len(user_ids))
    items = columns.pop("item")
    return write_histories(
        out,
        user_ids=user_ids,
        offsets=np.concatenate([[0], lengths.cumsum()]),
        items=items + np.int32(1),  # 0 is padding
        times=columns.pop("time", None),
        catalog=Catalog(item_ids, np.bincount(items, minlength=len(item_ids))),
        extra=columns,
        labels=labels,
        source=events.source if old is None else f"{old.meta.source} + {events.source}",
        time_unit=events.time_unit,
        dropped=dropped,
        overwrite=overwrite,
    )


def _distinct(events: Events, role: str) -> pl.Series:
    """Distinct ids, sorted, so that the same events give the same indices in any order of rows."""
    return events.collect(events.frame.select(role).unique())[role].sort()


def _collect(
    events: Events, user_ids: pl.Series, item_ids: pl.Series, known: Mapping[str, list[str]]
) -> tuple[pl.DataFrame, dict[str, list[str]]]:
    """All events, ids as indices, by user and then in order; and the words of text columns.

    Words that are `known` of a column keep their codes; new ones follow.
    """
    labels: dict[str, list[str]] = {}
    lazy = events.frame
    for role, ids in (("user", user_ids), ("item", item_ids)):
        lazy = _encode(lazy, role, ids)
    schema = events.frame.collect_schema()
    for name in events.columns:
        dtype = schema[name]
        if dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum):
            lazy = lazy.with_columns(pl.col(name).cast(pl.String))
            words = events.collect(lazy.select(pl.col(name).drop_nulls().unique()))[name].sort()
            words = known_first(pl.Series(name, known.get(name, []), dtype=pl.String), words)
            lazy = _encode(lazy, name, words).with_columns(pl.col(name).fill_null(-1))
            labels[name] = words.to_list()
        elif dtype == pl.Boolean:
            lazy = lazy.with_columns(pl.col(name).cast(pl.UInt8))
        elif not dtype.is_numeric() or isinstance(dtype, pl.Decimal):
            raise DataError(
                f"{events.source}, column {name!r} is of type {dtype}; event columns are numbers, "
                "booleans or text."
            )
    frame = events.collect(lazy)
    for column in frame:
        if column.null_count() and not column.dtype.is_float():
            row = column.is_null().arg_max()
            raise DataError(
                f"{events.source}, column {column.name!r}, row {(row or 0) + 1} is null. Fill such "
                "rows, or leave the column out."
            )
    by = ["user"] if events.row_order else ["user", "order" if "order" in frame.columns else "time"]
    order = frame.select(pl.arg_sort_by(by, maintain_order=True)).to_series()
    # Column by column, so that never more than one is in memory twice.
    frame = pl.DataFrame([frame.drop_in_place(name).gather(order) for name in frame.columns])
    frame = frame.drop("order", strict=False)
    if "time" in frame.columns:  # seconds only now: truncated before, they would tie
        seconds = to_seconds(frame["time"].to_numpy(), events.per_second)
        frame = frame.with_columns(time=seconds)
    return frame, labels


def _encode(lazy: pl.LazyFrame, name: str, words: pl.Series) -> pl.LazyFrame:
    """Replace values by their place among `words`, int32; the order of rows is kept."""
    if len(words) > np.iinfo(np.int32).max - 1:
        raise DataError(f"{len(words):,} distinct values of {name}: more than int32 can count.")
    code = f"__{name}"
    table = pl.DataFrame({name: words, code: np.arange(len(words), dtype=np.int32)}).lazy()
    joined = lazy.join(table, on=name, how="left", maintain_order="left")
    return joined.drop(name).rename({code: name})


def _core(frame: pl.DataFrame, k: int) -> pl.DataFrame:
    """The k-core: the largest part of the log where every user and item has k events."""
    while True:
        enough = [pl.len().over(role) >= k for role in ("user", "item")]
        smaller = frame.filter(enough)
        if len(smaller) == len(frame):
            return frame
        frame = smaller


def _long_enough(frame: pl.DataFrame, least: int) -> pl.DataFrame:
    return frame.filter(pl.len().over("user") >= least)


def _reindex(frame: pl.DataFrame, role: str, ids: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """Close the gaps that filters left, and give the ids that remain."""
    present = np.bincount(frame[role].to_numpy(), minlength=len(ids)) > 0
    if not present.all():
        new_index = pl.Series(role, np.cumsum(present, dtype=np.int32) - np.int32(1))
        frame = frame.with_columns(new_index.gather(frame[role]))
        ids = ids.filter(pl.Series(present))
    return frame, ids
