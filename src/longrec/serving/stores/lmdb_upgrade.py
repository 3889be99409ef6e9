"""An LMDB store of schema 1 or 2 carried over: the same tables, without checksums.

users    user                                    id of the user's log, u64
log      log id, number of the event: u64 each   the event (encoding.py)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb

from longrec.core.errors import DataError, UsageError
from longrec.core.lock import lock_folder
from longrec.serving.stores.checks import CHECK, event_check, head_check, pack_meta, unpack_meta
from longrec.serving.stores.high_water import HighWater, Mark
from longrec.serving.stores.lmdb_file import (
    copy_pairs,
    give_rights_beside,
    make_next,
    newest_number,
    open_environment,
    raise_in_words,
)
from longrec.serving.stores.lmdb_folder import HIGH_WATER
from longrec.serving.stores.lmdb_pages import Pages
from longrec.serving.stores.lmdb_tables import BORN, EVENT_KEY, HEAD, LOG_KEY, Tables
from longrec.serving.stores.protocol import SCHEMA, check_not_newer

AT_ONCE = 50_000


def upgrade_folder(
    path: str, progress: Callable[[int, int], None] | None = None
) -> tuple[str, int, int]:
    """Write the next file of a folder from an old one; -> its URL, users and events."""
    folder = Path(os.path.realpath(path))
    number = newest_number(folder)
    if not number:
        raise DataError(f"{folder}: there is no store of users in this folder")
    lock = lock_folder(folder, f"another process writes to {folder}: end it first")
    old = folder / f"store-{number}.mdb"
    try:
        with closing(open_environment(old, durable=False, readonly=True, lock=False)) as env:
            descriptor = os.open(old, os.O_RDONLY | os.O_CLOEXEC)
            try:
                with env.begin() as transaction:
                    pages = Pages(descriptor, env.stat()["psize"])
                    source = _OldTables(pages, transaction, str(folder))
                    _mark(folder, number + 1)
                    make_next(folder, lambda new, to: source.fill(new, to, progress))
            finally:
                os.close(descriptor)
        old.unlink()
        return f"lmdb://{folder}", source.users, source.events
    except (lmdb.Error, OSError) as error:
        raise_in_words(error, f"lmdb://{folder}")
    finally:
        lock.release()


def _mark(folder: Path, number: int) -> None:
    """Mark a file that is to come as one that has acknowledged nothing: one without is told."""
    mark = HighWater(folder / HIGH_WATER)
    mark.write(Mark(number, 0), wait=True)
    mark.close()
    give_rights_beside(folder / f"store-{number - 1}.mdb", HIGH_WATER)


class _OldTables:
    """The tables of an old file within a transaction.

    Attributes
    ----------
    users, events : how many were carried over.
    """

    def __init__(self, pages: Pages, transaction: lmdb.Transaction[Any], name: str) -> None:
        self._pages, self._transaction, self._name = pages, transaction, name
        self.users = self.events = 0
        kept = dict(self._pairs("meta"))
        meta = unpack_meta(kept.get(b"meta", b"{}"))
        if meta is None or pages.broken:
            raise DataError(f"{name} is damaged or no store of users")
        check_not_newer(meta, name)
        if meta.get("schema", 1) == SCHEMA:
            raise UsageError(f"{name} is of this longrec's schema, {SCHEMA}: it needs no upgrade")
        self._meta = meta
        self._born = LOG_KEY.unpack(kept.get(b"born", bytes(LOG_KEY.size)))[0]

    def fill(
        self, new: lmdb.Environment, to: Tables, progress: Callable[[int, int], None] | None
    ) -> None:
        """Fill the tables of a new file."""
        owners = {log_id: user for user, log_id in self._pairs("users")}
        last: dict[bytes, int] = {}
        total = self._pages.root(self._transaction, "log").keys

        def events() -> Iterator[tuple[bytes, bytes]]:
            for key, packed in self._pairs("log"):
                log_id, (_, number) = key[: LOG_KEY.size], EVENT_KEY.unpack(key)
                if log_id in owners:
                    last[log_id] = number
                    self.events += 1
                    check = event_check(owners[log_id], packed, number)
                    yield key, CHECK.pack(check) + packed
                if progress is not None and self.events % AT_ONCE == 0:
                    progress(self.events, total)

        def heads() -> Iterator[tuple[bytes, bytes]]:
            for user, log_id in self._pairs("users"):
                if log_id in last:
                    self.users += 1
                    head = LOG_KEY.unpack(log_id)[0], last[log_id]
                    yield user, HEAD.pack(*head, head_check(user, *head))

        ids = (pair for pair in self._pairs("ids") if pair[0][: LOG_KEY.size] in owners)
        copy_pairs(events(), new, to.log, AT_ONCE)
        copy_pairs(ids, new, to.ids, AT_ONCE)
        copy_pairs(heads(), new, to.users, AT_ONCE)
        if self._pages.broken:
            page = self._pages.broken[0]
            raise DataError(
                f"{self._name} is damaged, page {page.page:,}: {page.words}. Back it up with the "
                "longrec that wrote it, or restore a backup; nothing was changed"
            )
        meta = {key: value for key, value in self._meta.items() if key != "rebuild"}
        born = BORN.pack(self._born, head_check(b"born", self._born, 0))
        pairs = [(b"born", born), (b"meta", pack_meta(meta | {"schema": SCHEMA}))]
        copy_pairs(pairs, new, to.meta, AT_ONCE)

    def _pairs(self, name: str) -> Iterator[tuple[bytes, bytes]]:
        return self._pages.pairs(self._pages.root(self._transaction, name))
