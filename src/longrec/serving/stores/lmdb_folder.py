"""The folder of an LMDB store: its files, who writes to it, and who shares it in this process.

    FOLDER/
      .lock              held by the process that writes
      store-7.mdb        LMDB's file; the highest number counts, and compacting makes the next one
      store-7.mdb-lock   LMDB's table of readers
      store-8.tmp        while compacting

Files are numbered since LMDB keeps its place in the lock file too: another file put under the same
name beside a living reader would be taken up at a wrong place, and be lost.

LMDB allows a process to open a file once, and in a process that was forked it is not to be used.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import lmdb

from longrec.core.errors import DataError
from longrec.core.files import sync
from longrec.core.lock import lock_folder
from longrec.serving.stores.embedded import Opened
from longrec.serving.stores.lmdb_file import REOPEN, check_file, copy_tables, explain, open_file
from longrec.serving.stores.lmdb_layout import Tables, load_meta, save_meta
from longrec.serving.stores.protocol import SCHEMA, Durability, StoreUnavailable, check_schema

T = TypeVar("T")
FILE = re.compile(r"store-(\d+)\.(mdb|mdb-lock|tmp)")
PAUSE = 1.0
"""Seconds between syncs where commits do not wait for the disk."""


class LmdbFolder(Opened):
    """An open folder."""

    scheme, engine = "lmdb", "LMDB"

    def __init__(self, path: Path, durability: Durability, readonly: bool) -> None:
        self._env: lmdb.Environment | None = None
        self._file, self._synced = path, 0.0
        super().__init__(path, durability, readonly)

    def read(self, work: Callable[[lmdb.Transaction[bytes], Tables], T]) -> T:
        """Do something within one snapshot."""

        def attempt(env: lmdb.Environment) -> T:
            with env.begin() as transaction:
                return work(transaction, self._tables)

        return self._do(attempt)

    def write(self, work: Callable[[lmdb.Transaction[memoryview], Tables], T]) -> T:
        """Do something within one transaction; when it returns, that is as durable as was asked."""

        def attempt(env: lmdb.Environment) -> T:
            with env.begin(write=True, buffers=True) as transaction:
                done = work(transaction, self._tables)
            if self.durability == "process" and time.monotonic() > self._synced + PAUSE:
                try:
                    env.sync(True)
                except lmdb.Error as error:
                    raise StoreUnavailable(
                        f"{self.url} does not reach the disk: {error}"
                    ) from error
                self._synced = time.monotonic()
            return done

        with self._writing:
            return self._do(attempt)

    def size(self) -> int:
        """Bytes of the file."""
        return self._do(lambda env: os.path.getsize(self._file))

    def compact(self) -> tuple[int, int]:
        """Copy what is there to a new file and take that; -> bytes before and after.

        LMDB's own compacting copy would keep the keys that stand in branch pages, and with them ids
        of users that were forgotten.
        """

        def fill(new: lmdb.Environment, to: Tables) -> None:
            def attempt(env: lmdb.Environment) -> None:
                with env.begin(buffers=True) as source:
                    copy_tables(source, self._tables, new, to)

            self._do(attempt)

        with self._writing:
            before = self.size()
            try:
                made = self._build(fill)
                with self._gate.shut():
                    self._close()
                    try:
                        made.replace(made.with_suffix(".mdb"))
                        sync(self.path)
                    finally:
                        made.unlink(missing_ok=True)
                        self._open()
            except (lmdb.Error, OSError) as error:
                explain(error, self.url, self._file)
            return before, self.size()

    def _do(self, work: Callable[[lmdb.Environment], T]) -> T:
        """Do something with the environment, a second time if it had to be given up."""
        again = False
        while True:
            self._check()
            env = self._env
            if env is None or (self.readonly and not os.path.exists(self._file)):
                self._reopen(env)
                continue
            with self._gate:
                if env is not self._env:
                    continue
                try:
                    return work(env)
                except lmdb.Error as error:
                    if again or not isinstance(error, REOPEN):
                        explain(error, self.url, self._file)
            again = True
            self._reopen(env)

    def _start(self) -> None:
        """Take the lock, unless it is only read, and open the newest file, or a new one."""
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path} is a file; a store of users is a folder")
        try:
            if not self.readonly:
                self._lock = lock_folder(
                    self.path,
                    f"another process writes to {self.path}; a store has one writer (use Redis for "
                    "several): end that process, or open this store readonly",
                )
                if not self._newest():
                    made = self._build(_begin)
                    made.replace(made.with_suffix(".mdb"))
                    sync(self.path)
                    sync(self.path.parent)
            self._open()
        except BaseException as error:
            self._stop()
            if isinstance(error, (lmdb.Error, OSError)):
                explain(error, self.url, self._file)
            raise

    def _open(self) -> None:
        """Open the newest file; nothing is changed if it cannot be used."""
        number = self._newest()
        if not number:
            raise DataError(f"{self.path}: there is no store of users in this folder")
        self._file = self.path / f"store-{number}.mdb"
        try:
            check_file(self._file)
            env = open_file(self._file, self.durability == "power", self.readonly)
        except (lmdb.Error, OSError):
            if not self.readonly or self._file.exists():
                raise
            self._open()  # its writer has put another one in its place
            return
        try:
            meta = env.open_db(b"meta", create=False)
            with env.begin() as transaction:
                check_schema(load_meta(transaction, meta), self.url)
            self._tables = Tables(
                *(env.open_db(name.encode(), create=False) for name in Tables._fields)
            )
        except BaseException:
            env.close()
            raise
        if not self.readonly:
            env.reader_check()  # the slots of readers that died
            for name in os.listdir(self.path):  # what a process left that died while compacting
                found = FILE.fullmatch(name)
                if found and (int(found[1]) != number or found[2] == "tmp"):
                    (self.path / name).unlink(missing_ok=True)
        self._env, self._synced = env, time.monotonic()

    def _reopen(self, given_up: lmdb.Environment | None) -> None:
        with self._gate.shut():
            self._check()
            if self._env is given_up:
                self._close()
                try:
                    self._open()
                except (lmdb.Error, OSError) as error:
                    explain(error, self.url, self._file)

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def _stop(self) -> None:
        if self._env is not None and not self.readonly and self.durability == "process":
            with suppress(lmdb.Error):  # what is lost then may be lost
                self._env.sync(True)
        self._close()
        self.release_lock()

    def _newest(self) -> int:
        names = os.listdir(self.path) if self.path.is_dir() else []
        found = (FILE.fullmatch(name) for name in names)
        return max((int(one[1]) for one in found if one and one[2] == "mdb"), default=0)

    def _build(self, fill: Callable[[lmdb.Environment, Tables], None]) -> Path:
        """Make the next file under a temporary name, filled and on disk."""
        path = self.path / f"store-{self._newest() + 1}.tmp"
        path.unlink(missing_ok=True)
        try:
            env = open_file(path, durable=False, lock=False)
            try:
                fill(env, Tables(*(env.open_db(name.encode()) for name in Tables._fields)))
            finally:
                env.close()
            sync(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path


def _begin(new: lmdb.Environment, tables: Tables) -> None:
    with new.begin(write=True) as transaction:
        save_meta(transaction, tables.meta, {"schema": SCHEMA})
