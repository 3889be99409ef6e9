"""A store from its backup: streamed into an empty store, and gone on with after an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.serving.maintenance.backup import LOG, RECORDS, Copied, Progress, read_backup
from longrec.serving.stores.log_reader import NO_MODEL
from longrec.serving.stores.protocol import Append, Event, Put, Store, check_schema

EVENTS_AT_ONCE, RECORDS_AT_ONCE = 4_096, 128
"""How many are restored in one step of the store."""


def restore(folder: str | Path, store: Store, progress: Progress | None = None) -> Copied:
    """Bring a backup back into an empty store, of whatever kind.

    A restore that was interrupted goes on when it is called again; until it has ended, nothing else
    opens the store (`check_whole`).

    Parameters
    ----------
    folder : path
        Of a backup, held against its digests first.
    store : Store
        Empty, or half restored from this backup.
    progress : callable or None
        Called with (events restored, events in all).

    Raises
    ------
    UsageError
        When the store is not empty.
    DataError
        When the backup is not whole, or what was restored is not what the backup holds.
    StoreFull, StoreUnavailable
    """
    folder = Path(folder)
    told = read_backup(folder)
    check_schema(told["store"], str(folder))
    digest = told["store"].get("current") or NO_MODEL
    _begin(store, told)
    done = 0
    for batch in _batches(folder / LOG, EVENTS_AT_ONCE):
        _append(store, digest, batch)
        done += len(batch)
        if progress:
            progress(done, told["events"])
    for batch in _batches(folder / RECORDS, RECORDS_AT_ONCE):
        _put(store, digest, batch)
    found = store.totals()
    here = Copied(found.users, found.events, found.records.get(digest, 0), 0)
    wanted = Copied(told["users"], told["events"], told["records"], 0)
    if here != wanted:
        raise DataError(
            f"{store.url} has {_counts(here)} after the restore, the backup {_counts(wanted)}: "
            "somebody else wrote to it. Delete that store, and restore into an empty one."
        )
    schema = store.meta()["schema"]
    store.change_meta(lambda meta: _become(meta, told["store"] | {"schema": schema}))
    return here


def _batches(path: Path, rows: int) -> Iterator[list[dict[str, Any]]]:
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):  # one in memory at a time
            for batch in file.read_row_group(number).to_batches(rows):
                yield batch.to_pylist()


def _begin(store: Store, told: dict[str, Any]) -> None:
    """Mark an empty store as one that is being restored, or find that mark."""
    mark = {"backup": told["digest"]}
    found = store.meta().get("restoring")
    if found == mark:
        return
    if found is not None:
        raise UsageError(
            f"{store.url} is half restored from another backup: end that restore, or delete the "
            "store and restore into an empty one"
        )
    totals = store.totals()
    records = sum(totals.records.values())
    if totals.users or totals.events or records:
        here = Copied(totals.users, totals.events, records, 0)
        raise UsageError(
            f"{store.url} has {_counts(here)}; restore into an empty store (nothing was changed)"
        )
    store.change_meta(lambda meta: meta.update(restoring=mark))


def _append(store: Store, digest: str, rows: list[dict[str, Any]]) -> None:
    """Log events; those that an interrupted restore has logged are not logged again."""
    events: dict[bytes, list[dict[str, Any]]] = {}
    for row in rows:
        events.setdefault(row["user"], []).append(row)
    kept = store.read(digest, [(user, ()) for user in events])
    appends = []
    for (user, some), found in zip(events.items(), kept, strict=True):
        new = [row for row in some if row["number"] > found.last]
        if new and new[0]["number"] != found.last + 1:
            raise LongrecError(f"{store.url}: another process writes to it; nobody else may")
        if new:
            logged = [Event(row["time"], row["item"], row["event_id"]) for row in new]
            appends.append(Append(user, found.born, found.last, 0, logged, None, ()))
    done = store.append(digest, appends) if appends else []
    for append, appended in zip(appends, done, strict=True):
        if appended.last != append.last + len(append.events):
            raise LongrecError(f"{store.url}: another process writes to it; nobody else may")


def _put(store: Store, digest: str, rows: list[dict[str, Any]]) -> None:
    kept = store.read(digest, [(row["user"], ()) for row in rows])
    puts = [
        Put(row["user"], found.born, 0, row["record"], row["seen"])
        for row, found in zip(rows, kept, strict=True)
        if found.record is None
    ]
    if puts:
        store.put(digest, puts)


def _become(meta: dict[str, Any], new: dict[str, Any]) -> None:
    meta.clear()
    meta.update(new)


def _counts(of: Copied) -> str:
    return f"{of.users:,} users, {of.events:,} events and {of.records:,} records"
