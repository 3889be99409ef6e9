"""The tables of a SQLite store; its file made, looked at, and its errors in plain words.

    table    columns                             rows
    meta     key, value                          what is kept of the store itself, as JSON
    users    born, user                          `born` is given out once, in order
    log      born, number, time, item, event_id  one per event; an event id once per log
    records  born, model, record                 one per user and model (its digest)
    seen     born, model, page, bits             pages of the bitmaps (bitmap.py)

The last number of a log stands nowhere but in its last row: it cannot disagree. A log's rows are
the leaves of its key's tree. Those of records and bitmaps are not: long rows make such a tree deep.
There they lie in a table of their own, in whose pages an update overwrites them.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from pathlib import Path
from typing import Any, NoReturn

from longrec.core.errors import DataError, UsageError
from longrec.core.files import sync
from longrec.serving.stores.protocol import SCHEMA, StoreFull, StoreUnavailable, check_schema

APPLICATION = 0x4C524543
"""Marks a file of SQLite's as a store of users: "LREC"."""

OLDEST = (3, 37)
"""Version of SQLite that has strict tables."""

PAGE = 4096
"""Bytes of the file's pages."""

PATIENCE = 10.0
"""Seconds that a call waits for another process that holds the file locked."""

TABLES = """
create table meta (key text primary key, value text not null) strict, without rowid;
create table users (
    born integer primary key autoincrement, user blob not null unique
) strict;
create table log (
    born integer, number integer, time integer not null, item blob not null, event_id blob,
    primary key (born, number)
) strict, without rowid;
create unique index ids on log (born, event_id) where event_id is not null;
create table records (
    born integer not null, model blob not null, record blob not null, unique (born, model)
) strict;
create table seen (
    born integer not null, model blob not null, page integer not null, bits blob not null,
    unique (born, model, page)
) strict;
"""

_ROOM = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a file in a mode of SQLite's ("ro", "rw", "rwc"), for any thread, one at a time."""
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=PATIENCE,
        isolation_level=None,
        check_same_thread=False,
    )


def make_file(path: Path) -> None:
    """Make an empty store, whole or not at all."""
    new = beside(path, "-new")
    try:
        for file in (new, beside(new, "-wal")):  # of a process that died
            file.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
        connection = connect(new, "rw")
        try:
            connection.execute("pragma synchronous = off")  # it is synced as a whole
            connection.execute(f"pragma page_size = {PAGE}")
            connection.execute("pragma journal_mode = wal")
            connection.execute(f"pragma application_id = {APPLICATION}")
            connection.executescript(f"begin; {TABLES} commit;")
            connection.execute("insert into meta values ('schema', ?)", (json.dumps(SCHEMA),))
        finally:
            connection.close()
        sync(new)
        new.replace(path)
        sync(path.parent)
    finally:
        new.unlink(missing_ok=True)


def beside(path: Path, end: str) -> Path:
    """The file beside a store's whose name ends so; SQLite's write-ahead log ends in "-wal"."""
    return path.with_name(path.name + end)


def check_file(path: Path, readonly: bool) -> None:
    """See that a file may be opened as a store, which makes it if it is not there.

    Raises
    ------
    UsageError
        When this SQLite is too old, or a file cannot be made there.
    DataError
        When what stands there is no file, or is not whole.
    """
    if sqlite3.sqlite_version_info < OLDEST:
        raise UsageError(
            f"this Python has SQLite {sqlite3.sqlite_version}, a store at sqlite:// needs "
            f"{'.'.join(map(str, OLDEST))}: use lmdb:///folder, or a newer Python"
        )
    if path.is_dir():
        raise DataError(f"{path} is a folder; a store at sqlite:// is a file")
    if path.exists():
        size = path.stat().st_size
        # Only where a log is left the file may end within a page: it will be mended from that.
        if not size or (size % PAGE and not beside(path, "-wal").exists()):
            raise DataError(
                f"{path} is damaged or no store of users: it has {size:,} bytes. Name another "
                "file, or restore it from a backup (`longrec store restore`)"
            )
    elif readonly:
        raise DataError(f"{path}: there is no store of users")
    elif not path.parent.is_dir():
        raise UsageError(f"{path.parent}: there is no such folder to make {path.name} in")
    elif beside(path, "-wal").exists():
        raise DataError(
            f"{path} is not there, but its write-ahead log is: bring both together again, or "
            f"delete {beside(path, '-wal')} with what it holds"
        )


def check_store(connection: sqlite3.Connection, path: Path, url: str) -> None:
    """See that what was opened is a store of users that this longrec reads.

    Raises
    ------
    DataError
        When it is not.
    """
    if connection.execute("pragma application_id").fetchone()[0] != APPLICATION:
        raise DataError(
            f"{path} is damaged or no store of users, although a file of SQLite's: name another "
            "file, or restore it from a backup (`longrec store restore`)"
        )
    check_schema(load_meta(connection), url)


def load_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """What is kept of the store itself."""
    return {key: json.loads(value) for key, value in connection.execute("select * from meta")}


def save_meta(connection: sqlite3.Connection, kept: dict[str, Any]) -> None:
    """Keep that."""
    connection.execute("delete from meta")
    rows = [(key, json.dumps(value)) for key, value in kept.items()]
    connection.executemany("insert into meta values (?, ?)", rows)


def explain(error: sqlite3.Error | OSError, url: str, path: Path) -> NoReturn:
    """Raise what an error of SQLite's means to a user."""
    said, code = str(error), getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    full = isinstance(error, OSError) and error.errno in _FULL
    # SQLite speaks of an input/output error where a quota or a limit of file sizes is reached.
    if full or code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and not _room(path)):
        raise StoreFull(
            f"{url} has no room to grow (disk, quota or limit of file sizes; for compacting also "
            "among temporary files): nothing of this was written. Make room; the store goes on by "
            "itself"
        ) from error
    if code in _DAMAGED:
        raise DataError(
            f"{url} is damaged or no store of users ({said}): restore it from a backup "
            "(`longrec store restore`)"
        ) from error
    if code in _LOCKED:
        raise StoreUnavailable(
            f"{url} is locked: another process, perhaps an open shell of SQLite's, has been at "
            "work in it for too long. End that, and do this again"
        ) from error
    raise StoreUnavailable(f"{url} cannot be used: {said}") from error


def _room(path: Path) -> bool:
    """Whether the files could grow; asked with another file, as closing them ends their locks."""
    probe = beside(path, "-room")
    sizes = [file.stat().st_size for file in (path, beside(path, "-wal")) if file.exists()]
    try:
        handle = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        return error.errno not in _FULL
    try:
        os.posix_fallocate(handle, max(sizes, default=0), _ROOM)
    except OSError as error:
        return error.errno not in _FULL
    finally:
        os.close(handle)
        probe.unlink(missing_ok=True)
    return True
