"""The logs of a store in SQLite, as longrec 0.1.0 kept users there: read to be carried over."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from longrec.core.errors import DataError

APPLICATION = 0x4C524543
"""Marks a file of SQLite's as a store of users: "LREC"."""

_LOG = """
select users.user as user, log.number as number, log.time as time, log.event_id as event_id,
    log.item as item
from users join log on log.born = users.born order by users.user, log.number
"""


def read_sqlite(path: Path, rows: int) -> tuple[dict[str, Any], Iterator[list[dict[str, Any]]]]:
    """What a store in SQLite holds, as a backup of it would have it.

    Parameters
    ----------
    path : Path
        The file; it is only read.
    rows : int
        Events read at once.

    Returns
    -------
    (dict, iterator of lists of dict)
        Counts ("users", "events"), the store's meta ("store") and what identifies both ("digest");
        and the events, users in byte order and each user's in log order.

    Raises
    ------
    DataError
        When the file is no store of users, or is damaged.
    """
    try:
        with closing(_connect(path)) as connection:
            if connection.execute("pragma application_id").fetchone()[0] != APPLICATION:
                raise DataError(f"{path} is no store of users")
            if connection.execute("pragma quick_check").fetchone()[0] != "ok":
                raise DataError(f"{path} is damaged: restore it from a backup")
            counts = [
                connection.execute(f"select count(*) from {table}").fetchone()[0]
                for table in ("users", "log")
            ]
            meta = {
                key: json.loads(value)
                for key, value in connection.execute("select key, value from meta")
            }
    except sqlite3.Error as error:
        raise DataError(f"{path} is damaged or no store of users: {error}") from error
    about = {"users": counts[0], "events": counts[1], "store": meta}
    about["digest"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return about, _batches(path, rows)


def _batches(path: Path, rows: int) -> Iterator[list[dict[str, Any]]]:
    try:
        with closing(_connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            events = connection.execute(_LOG)
            while batch := events.fetchmany(rows):
                yield [dict(row) for row in batch]
    except sqlite3.Error as error:
        raise DataError(f"{path} is damaged: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
