"""Histories to disk: the folder whole or not at all, events in order, some at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from longrec.core.errors import DataError, our_fault
from longrec.data.catalog import Catalog, hash_ids
from longrec.data.events_file import EventsFile
from longrec.data.histories import (
    FILES,
    HISTORIES,
    SCHEMA_VERSION,
    SHARDS,
    Histories,
    kind_at,
    open_histories,
    shards_as_one,
)
from longrec.data.mapped import column_head
from longrec.data.meta import HistoriesMeta

ITEM = np.dtype(np.int32)
TIME = np.dtype(np.int64)
Chunk = Mapping[str, np.ndarray]
"""Some events: "item" (indices from 1), "time" in seconds if there are times, further columns."""


def write_histories(
    path: Path | str,
    *,
    user_ids: pl.Series,
    offsets: np.ndarray,
    items: np.ndarray,
    times: np.ndarray | None,
    catalog: Catalog,
    extra: Mapping[str, np.ndarray] | None = None,
    labels: Mapping[str, list[str]] | None = None,
    source: str,
    time_unit: str | None,
    dropped: Mapping[str, int] | None = None,
    overwrite: bool = False,
) -> Histories:
    """Write a histories folder from arrays, whole or not at all, and open it.

    Parameters
    ----------
    user_ids, offsets, items, times, catalog, extra, labels
        as in `Histories`.
    source, time_unit, dropped
        for the record: where the events came from, in which unit their times were, how many
        events, users or items were left out and why.
    overwrite
        replace an existing histories folder; nothing else is ever replaced.

    Raises
    ------
    UsageError
        when `path` exists and may not be replaced.
    DataError
        when it cannot be written (disk full, no permission); nothing is left behind then.
    """
    columns = {"item": items} | ({} if times is None else {"time": times}) | dict(extra or {})
    for name, column in columns.items():
        if len(column) != offsets[-1]:
            raise DataError(f"Column {name!r} has {len(column)} rows for {offsets[-1]} events.")
    return write_chunks(
        path,
        user_ids=user_ids,
        offsets=offsets,
        catalog=catalog,
        chunks=[columns],
        has_time=times is not None,
        extra={name: column.dtype for name, column in (extra or {}).items()},
        labels=labels or {},
        source=source,
        time_unit=time_unit,
        dropped=dropped or {},
        overwrite=overwrite,
    )


def write_chunks(
    path: Path | str,
    *,
    user_ids: pl.Series,
    offsets: np.ndarray,
    catalog: Catalog,
    chunks: Iterable[Chunk],
    has_time: bool,
    extra: Mapping[str, np.dtype[Any]],
    labels: Mapping[str, list[str]],
    source: str,
    time_unit: str | None,
    dropped: Mapping[str, int],
    options: Mapping[str, Any] | None = None,
    beside: Callable[[Path], None] | None = None,
    overwrite: bool = False,
) -> Histories:
    """The same from events that come in order, by user, some at a time.

    Parameters
    ----------
    chunks : together `offsets[-1]` events.
    has_time, extra : whether there are times, and the dtype of each further column.
    options : how the log was read.
    beside : writes further files into the folder.
    """
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    rows = int(offsets[-1])
    if not rows:
        raise DataError(f"{source}: no events to write.")
    types = {"item": ITEM} | ({"time": TIME} if has_time else {}) | dict(extra)
    hasher = hashlib.sha256()
    hash_ids(hasher, user_ids)
    hash_ids(hasher, catalog.ids)
    hasher.update(column_head("offset", offsets.dtype, len(offsets)))
    hasher.update(offsets.data)
    first, last = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    with writing(Path(path), overwrite=overwrite) as folder:
        write_arrow(folder / "users.arrow", {"id": user_ids.rechunk().to_arrow()})
        write_arrow(folder / "offsets.arrow", {"offset": pa.array(offsets)})
        with EventsFile(folder / "events.arrow", rows, types) as file:
            for chunk in chunks:
                if has_time and len(chunk["time"]):
                    first = min(first, int(chunk["time"].min()))
                    last = max(last, int(chunk["time"].max()))
                file.write(chunk)
            if file.written != rows:
                raise our_fault(f"{source}: {file.written:,} of {rows:,} events were written")
            for name, dtype in types.items():
                hasher.update(column_head(name, dtype, rows))
                file.feed(name, hasher)
        catalog.save(folder / "catalog.parquet")
        if beside is not None:
            beside(folder)
        meta = HistoriesMeta(
            schema_version=SCHEMA_VERSION,
            n_users=len(user_ids),
            n_items=catalog.n_items,
            n_events=rows,
            has_time=has_time,
            time_unit=time_unit,
            first_time=first if has_time else None,
            last_time=last if has_time else None,
            dropped=dict(dropped),
            source=source,
            fingerprint=hasher.hexdigest(),
            created=_now(),
            files={name: (folder / name).stat().st_size for name in FILES},
            labels=dict(labels),
            options=dict(options or {}),
        )
        _write_document(folder / HISTORIES.document, meta)
    return open_histories(path)


def write_shards(
    path: Path | str,
    write: Callable[[Path], Sequence[str]],
    *,
    source: str,
    dropped: Mapping[str, int] | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Histories:
    """Write a folder of shards, whole or not at all, and open it.

    Parameters
    ----------
    path : path
    write : callable
        Writes histories folders, all of one catalog and of different users, into the folder that it
        is given, and perhaps further files; -> names of these folders in the order of users.
    source, dropped, options, overwrite : as of `write_chunks`.

    Raises
    ------
    UsageError
        When `path` exists and may not be replaced.
    DataError
        When it cannot be written, or the shards do not fit together; nothing is left behind then.
    """
    path = Path(path)
    with writing(path, overwrite=overwrite) as folder:
        names = write(folder)
        shards = [open_histories(folder / name) for name in names]
        if not shards:
            raise DataError(f"{source}: no events to write.")
        first = shards[0]
        for name, one in zip(names, shards, strict=True):
            _check_fits(folder / name, one, first)
        users = pl.concat([one.user_ids for one in shards], rechunk=False)
        if users.n_unique() < len(users):
            twice = users.filter(users.is_duplicated())[0]
            raise DataError(f"user {twice!r} is in two shards: put all events of a user into one.")
        bounds = [one.meta for one in shards]
        meta = replace(
            first.meta,
            n_users=len(users),
            n_events=sum(one.n_events for one in shards),
            first_time=min(one.first_time or 0 for one in bounds) if first.meta.has_time else None,
            last_time=max(one.last_time or 0 for one in bounds) if first.meta.has_time else None,
            source=source,
            dropped=dict(dropped or {}),
            options=dict(options or {}),
            created=_now(),
            files={
                f"{one.path.name}/{name}": size
                for one in shards
                for name, size in one.meta.files.items()
            },
            shards={name: one.fingerprint for name, one in zip(names, shards, strict=True)},
        )
        whole = shards_as_one(folder, meta, shards)
        _write_document(folder / SHARDS.document, replace(meta, fingerprint=whole.digest()))
    return open_histories(path)


def _check_fits(path: Path, one: Histories, first: Histories) -> None:
    """Raise DataError unless two shards can be read as one."""
    own, other = one.meta, first.meta
    for what, same in {
        "items": one.catalog.digest == first.catalog.digest
        and np.array_equal(one.catalog.counts, first.catalog.counts),
        "type of user ids": one.user_ids.dtype == first.user_ids.dtype,
        "times": (own.has_time, own.time_unit) == (other.has_time, other.time_unit),
        "columns": {n: x.dtype for n, x in one.extra.items()}
        == {n: x.dtype for n, x in first.extra.items()},
        "words of columns": own.labels == other.labels,
    }.items():
        if not same:
            raise DataError(
                f"{path.name} and {first.path.name} differ in {what}: no shards of one."
            )


def writing(path: Path, *, overwrite: bool) -> AbstractContextManager[Path]:
    """Write a folder of histories, which may replace one of either kind (`SealedKind.writing`)."""
    return kind_at(path).writing(path, overwrite=overwrite)


def _write_document(place: Path, meta: HistoriesMeta) -> None:
    document = asdict(meta)
    if not meta.shards:  # what has none is read by longrec 0.2, too
        del document["shards"]
    place.write_text(json.dumps(document, indent=2), encoding="utf-8")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_arrow(path: Path, columns: Mapping[str, pa.Array]) -> None:
    """One uncompressed record batch, so that a reader maps each column as one slice."""
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
