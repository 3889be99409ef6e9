"""Histories to disk: the folder whole or not at all, events in order, some at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
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
    Histories,
    HistoriesMeta,
    column_head,
    open_histories,
)

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
    with HISTORIES.writing(Path(path), overwrite=overwrite) as folder:
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
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files={name: (folder / name).stat().st_size for name in FILES},
            labels=dict(labels),
            options=dict(options or {}),
        )
        (folder / HISTORIES.document).write_text(
            json.dumps(asdict(meta), indent=2), encoding="utf-8"
        )
    return open_histories(path)


def write_arrow(path: Path, columns: Mapping[str, pa.Array]) -> None:
    """One uncompressed record batch, so that a reader maps each column as one slice."""
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
