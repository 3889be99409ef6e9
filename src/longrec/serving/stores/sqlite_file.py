"""The file of a SQLite store: who writes to it, who reads it, and its write-ahead log.

    users.db           SQLite's file
    users.db-wal       the log: what was committed and is not in the file yet
    users.db-shm       SQLite's index of the log, shared by processes
    users.db-lock      held by the process that writes

All but the first are gone after an orderly end; after another one the log belongs to the store.

A commit is written to the log, and with "power" the log is synced, once. Every `LOG` pages the one
who commits brings the log into the file: seldomer it would take longer, and a thread for it would
contend for the disk with those who commit. Readers see the last commit and wait for nobody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from longrec.core.lock import lock_file
from longrec.serving.stores.embedded import Opened
from longrec.serving.stores.protocol import Durability, StoreUnavailable
from longrec.serving.stores.sqlite_layout import (
    beside,
    check_file,
    check_store,
    connect,
    explain,
    make_file,
)

T = TypeVar("T")
LOG = 1000
"""Pages of 4 KiB in the log, some hundred events, after which it is brought into the file."""


class SqliteFile(Opened):
    """An open file."""

    scheme, engine = "sqlite", "SQLite"

    def __init__(self, path: Path, durability: Durability, readonly: bool) -> None:
        self._idle: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None
        super().__init__(path, durability, readonly)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something within one snapshot, on a connection that nobody else uses meanwhile."""
        self._check()
        with self._gate:
            self._check()
            try:
                connection = self._reader()
                try:
                    with _transaction(connection, "begin"):
                        return work(connection)
                finally:
                    self._idle.append(connection)
            except sqlite3.Error as error:
                explain(error, self.url, self.path)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something within one transaction; when it returns, that is as durable as was asked."""
        self._check()
        with self._writing:
            self._check()
            assert self._writer is not None
            try:
                with _transaction(self._writer, "begin immediate"):
                    return work(self._writer)
            except sqlite3.Error as error:
                explain(error, self.url, self.path)

    def size(self) -> int:
        """Bytes of the file and its log."""
        files = (self.path, beside(self.path, "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def compact(self) -> tuple[int, int]:
        """Write the file anew; -> bytes before and after.

        It goes through a file in the folder for temporary ones, and the log.
        """
        self._check()
        with self._writing:
            self._check()
            assert self._writer is not None
            before = self.size()
            try:
                self._writer.execute("vacuum")
                [(busy, _, _)] = self._writer.execute("pragma wal_checkpoint(truncate)")
            except sqlite3.Error as error:
                explain(error, self.url, self.path)
            if busy:
                raise StoreUnavailable(
                    f"{self.url} is being read all the time: what was deleted is still in its log "
                    f"({self.path.name}-wal). End who reads it in another process and compact again"
                )
            return before, self.size()

    def _start(self) -> None:
        try:
            check_file(self.path, self.readonly)
            if not self.readonly:
                self._lock = lock_file(
                    beside(self.path, "-lock"),
                    f"another process writes to {self.path}; a store has one writer (use Redis for "
                    "several): end that process, or open this store readonly",
                )
                if not self.path.exists():
                    make_file(self.path)
            connection = connect(self.path, "ro" if self.readonly else "rw")
            if self.readonly:
                self._idle.append(connection)
            else:
                self._writer = connection
                for setting in (
                    f"synchronous = {'full' if self.durability == 'power' else 'normal'}",
                    "fullfsync = on",  # without which macOS does not reach the disk
                    f"wal_autocheckpoint = {LOG}",
                    "secure_delete = on",  # what was deleted is overwritten
                ):
                    connection.execute(f"pragma {setting}")
            check_store(connection, self.path, self.url)
        except BaseException as error:
            self._stop()
            if isinstance(error, (sqlite3.Error, OSError)):
                explain(error, self.url, self.path)
            raise

    def _reader(self) -> sqlite3.Connection:
        """A connection that nobody uses."""
        try:
            return self._idle.pop()
        except IndexError:
            return connect(self.path, "ro")

    def _stop(self) -> None:
        while self._idle:
            self._idle.pop().close()
        if self._writer is not None:
            self._writer.close()  # the last one: the log goes into the file
            self._writer = None
        if self._lock is not None:
            beside(self.path, "-lock").unlink(missing_ok=True)
        self.release_lock()


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """All of it or nothing."""
    connection.execute(begin)
    try:
        yield
        connection.execute("commit")
    finally:
        if connection.in_transaction:
            connection.execute("rollback")
