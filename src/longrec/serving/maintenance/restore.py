"""A store from its backup: streamed into an empty store, and gone on with after an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.serving.maintenance.backup import (
    BACKUP,
    LOG,
    OWN,
    Copied,
    Progress,
    restored_meta,
)
from longrec.serving.maintenance.sqlite_source import read_sqlite
from longrec.serving.stores.log_reader import NO_MODEL
from longrec.serving.stores.protocol import Append, Event, Store, check_not_newer

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
        A backup's folder, checked against its digests first; or `sqlite:///file` of a store that
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
    if (file := _sqlite_file(source)) is not None:
        about, batches = read_sqlite(file, EVENTS_AT_ONCE)
        about["store"] = restored_meta(about["store"])
    else:
        about = BACKUP.read(Path(source))
        batches = _batches(Path(source) / LOG, EVENTS_AT_ONCE)
    check_not_newer(about["store"], str(source))
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
            f"{store.url} has {restored} after the restore, the backup {wanted}: "
            "somebody else wrote to it. Delete that store, and restore into an empty one."
        )

    def end(meta: dict[str, Any]) -> None:
        own = {key: meta[key] for key in OWN if key in meta}
        meta.clear()
        meta.update(about["store"] | own)

    store.change_meta(end)
    return restored


def check_source(source: str | Path) -> None:
    """Raise DataError where there is nothing to restore, before a store is made for it."""
    file = _sqlite_file(source)
    if file is None:
        BACKUP.read_document(Path(source))
    elif not file.is_file():
        raise DataError(f"{source}: there is no such file; name the store of longrec 0.1.0")


def _sqlite_file(source: str | Path) -> Path | None:
    """The file that `sqlite:///file` names; None for a backup's folder."""
    path = str(source).removeprefix("sqlite://")
    return Path(path) if path != str(source) else None


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
            f"{store.url} has {here}; restore into an empty store (nothing was changed)"
        )
    store.change_meta(lambda meta: meta.update(restoring=mark))


def _append(store: Store, rows: list[dict[str, Any]]) -> None:
    """Log events; those that an interrupted restore has logged are not logged again."""
    by_user: dict[bytes, list[dict[str, Any]]] = {}
    for row in rows:
        by_user.setdefault(row["user"], []).append(row)
    stored = store.read(NO_MODEL, [(user, ()) for user in by_user])
    appends, alone = [], True
    for (user, logged), found in zip(by_user.items(), stored, strict=True):
        new = [row for row in logged if row["number"] > found.last]
        if new:
            alone &= new[0]["number"] == found.last + 1
            events = [
                Event(row["time"], row["item"], row["event_id"], row.get("columns") or b"")
                for row in new
            ]
            appends.append(Append(user, found.log_id, found.last, 0, events, None, ()))
    if appends and alone:
        done = store.append(NO_MODEL, appends)
        alone = all(
            appended.last == append.last + len(append.events)
            for append, appended in zip(appends, done, strict=True)
        )
    if not alone:
        raise LongrecError(f"{store.url}: another process writes to it; nobody else may")
