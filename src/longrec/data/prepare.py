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

from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import Catalog
from longrec.data.extend import Columns, fit_events, known_first, merge
from longrec.data.histories import HISTORIES, Histories, open_histories, write_histories
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
    out = Path(out)
    HISTORIES.check_replaceable(out, overwrite=overwrite)
    old = open_histories(extend) if isinstance(extend, Path | str) else extend
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
        columns, labels = _collect(events, user_ids, item_ids, {})
        _order(events, columns)
        if dedup:
            pairs = pl.DataFrame({role: columns[role] for role in ("user", "item")})
            first = pairs.select(pl.struct("user", "item").is_first_distinct()).to_series()
            _apply_filter(columns, first.to_numpy(), dropped, "repeated")
        if k_core > 1:
            core = _core(columns, len(user_ids), len(item_ids), k_core)
            _apply_filter(columns, core, dropped, "k_core")
        if min_length > 1:
            lengths = np.bincount(columns["user"], minlength=len(user_ids))
            _apply_filter(columns, lengths[columns["user"]] >= min_length, dropped, "short")
        if not len(columns["user"]):
            losses = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in dropped.items())
            raise DataError(
                f"{events.source}: the filters leave no event (dropped: {losses}). Lower k_core or "
                "min_length."
            )
        for name, count in dropped.items():
            report(f"  dropped {count:,} {name.replace('_', ' ')}")
        user_ids = _reindex(columns, "user", user_ids)
        item_ids = _reindex(columns, "item", item_ids)
    else:
        events = fit_events(events, old)
        user_ids = known_first(old.user_ids, _distinct(events, "user"))
        item_ids = known_first(old.catalog.ids, _distinct(events, "item"))
        columns, labels = _collect(events, user_ids, item_ids, old.meta.labels)
        _order(events, columns)
        columns, duplicates = merge(old, columns, labels, report)
        duplicates += old.meta.dropped.get("duplicate_events", 0)
        dropped = old.meta.dropped | {"duplicate_events": duplicates}
        report(
            f"  beside {old.path}: {len(user_ids) - old.n_users:,} new users, "
            f"{len(item_ids) - old.n_items:,} new items, "
            f"{len(columns['user']) - old.n_events:,} new events"
        )
    lengths = np.bincount(columns.pop("user"), minlength=len(user_ids))
    counts = np.bincount(columns["item"], minlength=len(item_ids))
    items = columns.pop("item")
    items += 1  # 0 is padding
    return write_histories(
        out,
        user_ids=user_ids,
        offsets=np.concatenate([[0], lengths.cumsum()]),
        items=items,
        times=columns.pop("time", None),
        catalog=Catalog(item_ids, counts),
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
) -> tuple[Columns, dict[str, list[str]]]:
    """Indices and keys of all events in the log's order, and the vocabulary of text columns.

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
    columns = {}
    for name in frame.columns:
        column = frame.drop_in_place(name)
        if column.null_count() and not column.dtype.is_float():
            row = column.is_null().arg_max()
            raise DataError(
                f"{events.source}, column {name!r}, row {(row or 0) + 1} is null. Fill such rows, "
                "or leave the column out."
            )
        columns[name] = column.to_numpy(writable=True)
    return columns, labels


def _encode(lazy: pl.LazyFrame, name: str, words: pl.Series) -> pl.LazyFrame:
    """Replace values by their place among `words`, int32; the order of rows is kept."""
    if len(words) > np.iinfo(np.int32).max - 1:
        raise DataError(f"{len(words):,} distinct values of {name}: more than int32 can count.")
    code = f"__{name}"
    table = pl.DataFrame({name: words, code: np.arange(len(words), dtype=np.int32)}).lazy()
    joined = lazy.join(table, on=name, how="left", maintain_order="left")
    return joined.drop(name).rename({code: name})


def _order(events: Events, columns: Columns) -> None:
    """Sort by user, then by order, time or row; stable. Times become seconds only afterwards."""
    key = columns.pop("order", None)
    if key is None and not events.row_order:
        key = columns["time"]
    users = columns["user"]
    same_user = users[1:] == users[:-1]
    in_order = bool((users[1:] >= users[:-1]).all())
    if in_order and key is not None:
        in_order = bool((~same_user | (key[1:] >= key[:-1])).all())
    if not in_order:
        by = np.argsort(users, kind="stable") if key is None else np.lexsort((key, users))
        for name in columns:
            columns[name] = columns[name][by]
    if "time" in columns:
        columns["time"] = to_seconds(columns["time"], events.per_second)


def _core(columns: Columns, n_users: int, n_items: int, k: int) -> np.ndarray:
    """Mask of the k-core: the largest part of the log where every user and item has k events."""
    users, items = columns["user"], columns["item"]
    keep = np.ones(len(users), dtype=bool)
    while True:
        enough_users = np.bincount(users[keep], minlength=n_users) >= k
        enough_items = np.bincount(items[keep], minlength=n_items) >= k
        smaller = keep & enough_users[users] & enough_items[items]
        if smaller.sum() == keep.sum():
            return keep
        keep = smaller


def _apply_filter(columns: Columns, mask: np.ndarray, dropped: dict[str, int], reason: str) -> None:
    """Apply a mask to every column, and count the events, users and items that vanish."""
    roles = () if reason == "repeated" else ("user", "item")
    before = {role: _distinct_values(columns[role]) for role in roles}
    dropped[f"{reason}_events"] = int(len(mask) - mask.sum())
    if not mask.all():
        for name in columns:
            columns[name] = columns[name][mask]
    for role in roles:
        dropped[f"{reason}_{role}s"] = before[role] - _distinct_values(columns[role])


def _distinct_values(indices: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(indices)))


def _reindex(columns: Columns, role: str, ids: pl.Series) -> pl.Series:
    """Close the gaps that filters left, and give the ids that remain."""
    present = np.bincount(columns[role], minlength=len(ids)) > 0
    if not present.all():
        new_index = np.cumsum(present, dtype=np.int32) - np.int32(1)
        columns[role] = new_index[columns[role]]
        ids = ids.filter(pl.Series(present))
    return ids
