"""The folder of an LMDB store: its files, who writes to it, and who shares it in this process.

    FOLDER/
      .lock              held by the process that writes
      store-7.mdb        LMDB's file; the highest number counts, and compacting makes the next one
      store-7.mdb-lock   LMDB's table of readers
      store-8.tmp        while compacting

Files are numbered since LMDB keeps its place in the lock file too: another file put under the same
name beside a living reader would be taken up at a wrong place, and be lost.

LMDB allows a process to open a file once, so all stores of one path in a process share one
`LmdbFolder`: several streams of a process may write to a store, and several processes may not. In a
process that was forked it is not to be used; such a process opens its own.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import lmdb
from filelock import BaseFileLock

from longrec.core.choices import Durability
from longrec.core.errors import DataError, UsageError
from longrec.core.files import sync
from longrec.core.lock import lock_folder
from longrec.serving.stores.lmdb_file import (
    REOPEN,
    check_size,
    copy_tables,
    open_file,
    raise_in_words,
)
from longrec.serving.stores.lmdb_tables import Tables, load_meta, save_meta
from longrec.serving.stores.protocol import SCHEMA, StoreUnavailable, check_schema
from longrec.serving.stores.shared_lock import SharedLock

T = TypeVar("T")
FILE = re.compile(r"store-(\d+)\.(mdb|mdb-lock|tmp)")
PAUSE = 1.0
"""Seconds between syncs where commits do not wait for the disk."""


class LmdbFolder:
    """An open folder: get it with `share`, give it back with `leave`."""

    def __init__(self, path: Path, durability: Durability, readonly: bool) -> None:
        self.path, self.durability, self.readonly = path, durability, readonly
        self.url, self.users = f"lmdb://{path}", 0
        self._pid = os.getpid()
        # Who uses the environment holds the first one, who changes it holds it alone.
        self._in_use, self._writing = SharedLock(), threading.Lock()
        self._lock: BaseFileLock | None = None
        self._env: lmdb.Environment | None = None
        self._file, self._synced = path, 0.0
        self._start()

    @classmethod
    def share(cls, path: str, durability: Durability, readonly: bool) -> LmdbFolder:
        """What this process has open at a path, opened if it has not."""
        real = Path(os.path.realpath(path))
        with _registry_lock:
            folder = _folders.get(real)
            if folder is None:
                folder = _folders[real] = cls(real, durability, readonly)
            else:
                folder._join(durability, readonly)
            folder.users += 1
            return folder

    def leave(self) -> None:
        """One user less; the last one closes it."""
        with _registry_lock:
            self.users -= 1
            if not self.users and self._pid == os.getpid():
                del _folders[self.path]
                with self._writing, self._in_use.exclusive():
                    self._stop()
                    self._pid = 0

    def _join(self, durability: Durability, readonly: bool) -> None:
        """Let another store of this process use it."""
        self._check()
        if not readonly and self.readonly:
            with self._in_use.exclusive():
                self._stop()
                before, self.readonly, self.durability = self.durability, False, durability
                try:
                    self._start()
                except BaseException:
                    self.readonly, self.durability = True, before
                    self._start()
                    raise
        elif not readonly and durability != self.durability:
            raise UsageError(
                f"{self.url} is open in this process with durability {self.durability!r}: close it "
                f"before opening it with {durability!r}"
            )

    def _check(self) -> None:
        if not self._pid:
            raise UsageError(f"{self.url} was closed")
        if self._pid != os.getpid():
            raise UsageError(
                f"{self.url} was opened before this process was forked, which LMDB forbids: open "
                "stores after the fork, or start processes with 'spawn'"
            )

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
                with self._in_use.exclusive():
                    self._close()
                    try:
                        made.replace(made.with_suffix(".mdb"))
                        sync(self.path)
                    finally:
                        made.unlink(missing_ok=True)
                        self._open()
            except (lmdb.Error, OSError) as error:
                raise_in_words(error, self.url)
            return before, self.size()

    def _do(self, work: Callable[[lmdb.Environment], T]) -> T:
        """Do something with the environment; once more with a new one where LMDB asks for that."""
        again = False
        while True:
            self._check()
            env = self._env
            if env is None or (self.readonly and not os.path.exists(self._file)):
                self._reopen(env)
                continue
            with self._in_use:
                if env is not self._env:
                    continue
                try:
                    return work(env)
                except lmdb.Error as error:
                    if again or not isinstance(error, REOPEN):
                        raise_in_words(error, self.url)
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
                    made = self._build(_write_schema)
                    made.replace(made.with_suffix(".mdb"))
                    sync(self.path)
                    sync(self.path.parent)
            self._open()
        except BaseException as error:
            self._stop()
            if isinstance(error, (lmdb.Error, OSError)):
                raise_in_words(error, self.url)
            raise

    def _open(self) -> None:
        """Open the newest file; nothing is changed if it cannot be used."""
        number = self._newest()
        if not number:
            raise DataError(f"{self.path}: there is no store of users in this folder")
        self._file = self.path / f"store-{number}.mdb"
        try:
            if not os.path.getsize(self._file):  # LMDB would begin a new store in it
                raise DataError(
                    f"{self._file} is damaged: it is empty: restore it from a backup "
                    "(`longrec store restore`)"
                )
            env = open_file(self._file, self.durability == "power", self.readonly)
        except (lmdb.Error, OSError):
            if not self.readonly or self._file.exists():
                raise
            self._open()  # its writer has put another one in its place
            return
        try:
            check_size(env, self._file)
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

    def _reopen(self, unusable: lmdb.Environment | None) -> None:
        with self._in_use.exclusive():
            self._check()
            if self._env is unusable:
                self._close()
                try:
                    self._open()
                except (lmdb.Error, OSError) as error:
                    raise_in_words(error, self.url)

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def _stop(self) -> None:
        if self._env is not None and not self.readonly and self.durability == "process":
            with suppress(lmdb.Error):  # what is lost then may be lost
                self._env.sync(True)
        self._close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

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


def _write_schema(new: lmdb.Environment, tables: Tables) -> None:
    with new.begin(write=True) as transaction:
        save_meta(transaction, tables.meta, {"schema": SCHEMA})


_registry_lock = threading.Lock()
_folders: dict[Path, LmdbFolder] = {}


def _after_fork() -> None:
    """In a child nobody holds the lock that another thread of the parent held at the fork."""
    global _registry_lock
    _registry_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
