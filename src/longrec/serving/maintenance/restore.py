"""A store from its backup: streamed into an empty store, and gone on with after an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.serving.maintenance.backup import BACKUP, LOG, Copied, Progress, restored_meta
from longrec.serving.maintenance.sqlite_source import read_sqlite
from longrec.serving.stores.log_reader import NO_MODEL
from longrec.serving.stores.protocol import Append, Event, Store, check_schema

SQLITE = "sqlite://"
EVENTS_AT_ONCE = 4_096
"""How many are restored in one step of the store."""


def restore(source: str | Path, store: Store, progress: Progress | None = None) -> Copied:
    """Bring a backup back into an empty store, of whatever kind.

    Records are not in it: a user's is made when the user is next read, all of them by
    `Stream.rebuild`. A restore that was interrupted goes on when it is called again; until it has
    ended, nothing else opens the store (`check_whole`).

    Parameters
    ----------
    source : path
        A backup's folder, held against its digests first; or `sqlite:///file` of a store that
        longrec 0.1.0 kept.
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
    if str(source).startswith(SQLITE):
        about, batches = read_sqlite(Path(str(source).removeprefix(SQLITE)), EVENTS_AT_ONCE)
        about["store"] = restored_meta(about["store"])
    else:
        about = BACKUP.read(Path(source))
        batches = _batches(Path(source) / LOG, EVENTS_AT_ONCE)
    check_schema(about["store"], str(source))
    _begin(store, about["digest"])
    done = 0
    for batch in batches:
        _append(store, batch)
        done += len(batch)
        if progress:
            progress(done, about["events"])
    totals = store.totals()
    restored = Copied(totals.users, totals.events)
    wanted = Copied(about["users"], about["events"])
    if restored != wanted:
        raise DataError(
            f"{store.url} has {_counts(restored)} after the restore, the backup {_counts(wanted)}: "
            "somebody else wrote to it. Delete that store, and restore into an empty one."
        )
    schema = store.meta()["schema"]
    store.change_meta(lambda meta: _become(meta, about["store"] | {"schema": schema}))
    return restored


def check_source(source: str | Path) -> None:
    """Raise DataError where there is nothing to restore, before a store is made for it."""
    if not str(source).startswith(SQLITE):
        BACKUP.read_document(Path(source))
    elif not Path(str(source).removeprefix(SQLITE)).is_file():
        raise DataError(f"{source}: there is no such file; name the store of longrec 0.1.0")


def _batches(path: Path, rows: int) -> Iterator[list[dict[str, Any]]]:
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):  # one in memory at a time
            for batch in file.read_row_group(number).to_batches(rows):
                yield batch.to_pylist()


def _begin(store: Store, digest: str) -> None:
    """Mark an empty store as one that is being restored, or find that mark."""
    mark = {"backup": digest}
    found = store.meta().get("restoring")
    if found == mark:
        return
    if found is not None:
        raise UsageError(
            f"{store.url} is half restored from another backup: end that restore, or delete the "
            "store and restore into an empty one"
        )
    totals = store.totals()
    if totals.users or totals.events or any(totals.records.values()):
        here = Copied(totals.users, totals.events)
        raise UsageError(
            f"{store.url} has {_counts(here)}; restore into an empty store (nothing was changed)"
        )
    store.change_meta(lambda meta: meta.update(restoring=mark))


def _append(store: Store, rows: list[dict[str, Any]]) -> None:
    """Log events; those that an interrupted restore has logged are not logged again."""
    events: dict[bytes, list[dict[str, Any]]] = {}
    for row in rows:
        events.setdefault(row["user"], []).append(row)
    stored = store.read(NO_MODEL, [(user, ()) for user in events])
    appends = []
    for (user, some), found in zip(events.items(), stored, strict=True):
        new = [row for row in some if row["number"] > found.last]
        if new and new[0]["number"] != found.last + 1:
            raise LongrecError(f"{store.url}: another process writes to it; nobody else may")
        if new:
            logged = [Event(row["time"], row["item"], row["event_id"]) for row in new]
            appends.append(Append(user, found.log_id, found.last, 0, logged, None, ()))
    done = store.append(NO_MODEL, appends) if appends else []
    for append, appended in zip(appends, done, strict=True):
        if appended.last != append.last + len(append.events):
            raise LongrecError(f"{store.url}: another process writes to it; nobody else may")


def _become(meta: dict[str, Any], new: dict[str, Any]) -> None:
    meta.clear()
    meta.update(new)


def _counts(of: Copied) -> str:
    return f"{of.users:,} users and {of.events:,} events"
