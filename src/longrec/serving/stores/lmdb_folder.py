"""The folder of an LMDB store: who writes to it, and who shares it in this process.

Its file `.lock` is locked by the process that writes; the others are those of lmdb_file.py.

LMDB allows a process to open a file once, so all stores of one path in a process share one
`LmdbFolder`: several streams of a process may write to a store, and several processes may not. In a
process that was forked it is not to be used; such a process opens its own. For LMDB the files are
open there too, so that the child closes them first. That may be done only if nobody was within a
transaction at the fork: else it would end the parent's, whose place in the table of readers it
shares. So a fork waits, at most `FORK_PATIENCE`, until nobody is.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import lmdb
from filelock import BaseFileLock

from longrec.core.choices import Durability
from longrec.core.errors import DataError, UsageError
from longrec.core.lock import LOCK, lock_folder
from longrec.serving.stores.checks import pack_meta
from longrec.serving.stores.damage import Damage
from longrec.serving.stores.high_water import (
    UNREADABLE,
    HighWater,
    Loss,
    Mark,
    loss,
    machine_run,
    note_loss,
)
from longrec.serving.stores.lmdb_file import (
    REOPEN,
    LmdbFile,
    copy_tables,
    give_rights_beside,
    make_next,
    newest_number,
    open_newest,
    raise_in_words,
)
from longrec.serving.stores.lmdb_inspect import free_bytes, inspect
from longrec.serving.stores.lmdb_room import ROOM, check_room
from longrec.serving.stores.lmdb_tables import OpenTables, Tables
from longrec.serving.stores.protocol import SCHEMA, StoreDamaged, StoreFull, StoreUnavailable

T = TypeVar("T")
HIGH_WATER = "high-water"
"""The file of the mark."""
PAUSE = 1.0
"""Seconds between syncs where commits do not wait for the disk."""
FORK_PATIENCE = 1.0
"""Seconds that a fork waits for transactions of other threads to end."""


class SharedLock:
    """Many threads hold it together (`with lock:`), or one alone (`with lock.exclusive():`)."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders, self._exclusive = 0, False

    def __enter__(self) -> None:
        with self._changed:
            while self._exclusive:
                self._changed.wait()
            self._holders += 1

    def __exit__(self, *raised: object) -> None:
        with self._changed:
            self._holders -= 1
            if self._exclusive:
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until nobody else holds it, and let nobody else have it meanwhile."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self, timeout: float | None = None) -> bool:
        """Hold it alone, as `exclusive`; False: not within so many seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._exclusive, timeout):
                return False
            self._exclusive = True
            if self._changed.wait_for(lambda: not self._holders, timeout):
                return True
            self._exclusive = False
            self._changed.notify_all()
            return False

    def release(self) -> None:
        """Hold it alone no more."""
        with self._changed:
            self._exclusive = False
            self._changed.notify_all()


class LmdbFolder:
    """An open folder: get it with `acquire`, give it back with `release`."""

    def __init__(self, path: Path, durability: Durability, readonly: bool) -> None:
        self.path, self.durability, self.readonly = path, durability, readonly
        self.url, self.stores = f"lmdb://{path}", 0
        self.damage = Damage(self.url)
        self.lost: Loss | None = None
        self._high_water = HighWater(path / HIGH_WATER)
        self._pid, self._run = os.getpid(), machine_run()
        # Shared by those who use the open file; exclusive for who opens another one.
        self._file_lock, self._write_lock = SharedLock(), threading.Lock()
        self._folder_lock: BaseFileLock | None = None
        self._file: LmdbFile | None = None
        self._synced = 0.0
        self._refused_with: int | None = None  # free bytes, when a write was refused on a full disk
        self._takes = False
        self._start()

    @classmethod
    def acquire(cls, path: str, durability: Durability, readonly: bool) -> LmdbFolder:
        """What this process has open at a path, opened if it has not."""
        real = Path(os.path.realpath(path))
        with _registry_lock:
            folder = _folders.get(real) or _in_use_at_fork.get(real)
            if folder is None:
                folder = _folders[real] = cls(real, durability, readonly)
            else:
                folder._join(durability, readonly)
            folder.stores += 1
            return folder

    def release(self) -> None:
        """One store less; the last one closes it."""
        with _registry_lock:
            self.stores -= 1
            if not self.stores and self._pid == os.getpid():
                del _folders[self.path]
                with self._write_lock, self._file_lock.exclusive():
                    self._finish()
                    self._stop()
                    self._pid = 0

    def _join(self, durability: Durability, readonly: bool) -> None:
        """Let another store of this process use it."""
        self._check()
        if not readonly and self.readonly:
            with self._file_lock.exclusive():
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
                f"{self.url} was being read or written when this process was forked, for so long "
                "that LMDB cannot open it here: fork before that begins, or start processes with "
                "'spawn'"
                if self.path in _in_use_at_fork
                else f"{self.url} was opened before this process was forked: open it here, too"
            )

    def read(self, work: Callable[[OpenTables], T]) -> T:
        """Do something within one snapshot."""

        def attempt(file: LmdbFile) -> T:
            with file.env.begin(buffers=True) as transaction:
                return work(file.open_tables(transaction))

        return self._use(attempt)

    def write(self, work: Callable[[OpenTables], T]) -> T:
        """Do something within one transaction; when it returns, that is as durable as was asked."""

        def attempt(file: LmdbFile) -> T:
            with file.env.begin(write=True, buffers=True) as transaction:
                done = work(file.open_tables(transaction))
            self._mark(file)
            if self.durability == "process" and time.monotonic() > self._synced + PAUSE:
                try:
                    file.env.sync(True)
                except lmdb.Error as error:
                    raise StoreUnavailable(
                        f"{self.url} does not reach the disk: {error}"
                    ) from error
                self._synced = time.monotonic()
            return done

        with self._write_lock:
            try:
                return self._use(attempt)
            except StoreFull:
                self._refused_with, self._takes = self._use(_free_bytes), False
                raise

    def note_taken(self) -> None:
        """Events were written."""
        self._takes = self._refused_with is not None

    def check_room(self) -> None:
        """Raise StoreFull where the file cannot grow, unless it has room within: since the last
        refusal events were taken again, or pages enough became free, as by forgetting."""

        def attempt(file: LmdbFile) -> None:
            try:
                check_room(file.env, file.path)
                self._refused_with, self._takes = None, False
            except (lmdb.MapFullError, OSError):
                wanted = ROOM if self._refused_with is None else max(ROOM, self._refused_with + 1)
                if not self._takes and _free_bytes(file) < wanted:
                    raise

        self._use(attempt)

    def inspect(self) -> list[str]:
        """What is wrong with the file's pages, and with what the file does not have any more."""

        def attempt(file: LmdbFile) -> list[str]:
            with file.env.begin() as transaction:
                return inspect(file.descriptor, file.page, transaction.id())

        return self._use(attempt) + ([] if self.lost is None else [str(self.lost)])

    def size(self) -> int:
        """Bytes of the file."""
        return self._use(lambda file: os.path.getsize(file.path))

    def compact(self) -> tuple[int, int]:
        """Copy what is there to a new file and take that; -> bytes before and after.

        LMDB's own compacting copy would keep the keys that stand in branch pages, and with them ids
        of users that were forgotten.
        """

        def fill(new: lmdb.Environment, to: Tables) -> None:
            def attempt(file: LmdbFile) -> None:
                with file.env.begin(buffers=True) as transaction:
                    copy_tables(file.open_tables(transaction), new, to)

            self._use(attempt)

        with self._write_lock:
            before = self.size()
            try:
                make_next(self.path, fill)
            except (lmdb.Error, OSError) as error:
                raise_in_words(error, self.url)
            finally:  # the next one counts also where the folder was not synced
                self._reopen(self._file)
            self._use(self._settle)
            return before, self.size()

    def _use(self, work: Callable[[LmdbFile], T]) -> T:
        """Do something with the open file; once more with it opened anew where LMDB asks for it."""
        reopened = False
        while True:
            self._check()
            file = self._file
            if file is None or (self.readonly and self._is_outdated(file)):
                self._reopen(file)
                continue
            with self._file_lock:
                if file is not self._file:
                    continue
                try:
                    done = work(file)
                    if not file.is_shared_by_now:
                        return done
                except lmdb.Error as error:
                    if reopened or not isinstance(error, REOPEN):
                        raise_in_words(error, self.url)
                except OSError as error:
                    raise_in_words(error, self.url)
            reopened = True
            self._reopen(file)

    def _is_outdated(self, file: LmdbFile) -> bool:
        """Whether a file that is only read was replaced, or is read by too little by now."""
        return file.is_shared_by_now or not os.path.exists(file.path)

    def _mark(self, file: LmdbFile, wait: bool = False) -> None:
        """Note how many transactions were acknowledged."""
        unsynced = self._run if self.durability == "process" else 0
        mark = Mark(file.number, file.env.info()["last_txnid"], unsynced)
        self._high_water.write(mark, wait)

    def _settle(self, file: LmdbFile) -> None:
        """Mark a file that is new here; all files beside it are for those whose it is."""
        self._mark(file, wait=True)
        give_rights_beside(file.path, LOCK, HIGH_WATER)

    def _start(self) -> None:
        """Take the folder's lock, unless it is only read, and open its file, or a new one."""
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path} is a file; a store of users is a folder")
        try:
            if not self.readonly:
                self._folder_lock = lock_folder(
                    self.path,
                    f"another process writes to {self.path}, or reads it where it may not write; a "
                    "store has one writer (use Redis for several): end that process, or open this "
                    "store readonly",
                )
                if not newest_number(self.path):
                    make_next(self.path, _write_schema)
            mark = self._high_water.read()  # before the file, which may go on
            self._open()
            self._look_for_loss(mark)
            if not self.readonly and self._file is not None:
                self._settle(self._file)
        except BaseException as error:
            self._stop()
            if isinstance(error, (lmdb.Error, OSError)):
                raise_in_words(error, self.url)
            raise

    def hold(self, timeout: float) -> bool:
        """Let nobody read or write until `let_go`; False: somebody does, for longer than that."""
        return self._file_lock.acquire(timeout)

    def let_go(self) -> None:
        """Let others read and write again."""
        self._file_lock.release()

    def close_inherited(self) -> None:
        """Close the file in a child, while its parent is held; the parent goes on with it."""
        self._close()

    def _look_for_loss(self, mark: Mark | None) -> None:
        """See whether the file has all that was acknowledged; else it is told, and noted in it."""
        file = self._file
        assert file is not None
        if mark is None and _has_users(file):  # it is written before there are any
            mark = UNREADABLE
        lost = loss(mark, Mark(file.number, file.env.info()["last_txnid"], self._run))
        if lost is None:
            return
        self.lost = lost
        self.damage.note("cut", where=str(lost))
        if not self.readonly:
            if lost.torn or lost.unknown:
                self._check_pages(file)
            with file.env.begin(write=True, buffers=True) as transaction:
                tables = file.open_tables(transaction)
                meta = tables.load_meta()
                note_loss(meta, lost)
                tables.save_meta(meta)
            self._mark(file)

    def _check_pages(self, file: LmdbFile) -> None:
        """See that a file that was in a power cut may be written to: else LMDB may end the process.

        Raises
        ------
        StoreDamaged
        """
        with file.env.begin() as transaction:
            found = inspect(file.descriptor, file.page, transaction.id())
        if found:
            raise StoreDamaged(
                f"{self.url} is damaged: {self.lost} ({found[0]}). It can be read still: back it "
                "up with `longrec store backup`, and restore that, or an earlier backup, into an "
                "empty store"
            )

    def _open(self) -> None:
        self._file = open_newest(self.path, self.durability == "power", self.readonly, self.url)
        self._synced = time.monotonic()

    def _reopen(self, unusable: LmdbFile | None) -> None:
        """Open the newest file in place of one, unless another thread has done so."""
        with self._file_lock.exclusive():
            self._check()
            if self._file is unusable:
                self._close()
                try:
                    self._open()
                except (lmdb.Error, OSError) as error:
                    raise_in_words(error, self.url)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _finish(self) -> None:
        """Bring all to the disk."""
        if self._file is not None and not self.readonly and self.durability == "process":
            with suppress(lmdb.Error):  # what is lost then may be lost
                self._file.env.sync(True)
                mark = Mark(self._file.number, self._file.env.info()["last_txnid"])
                self._high_water.write(mark, wait=True)

    def _stop(self) -> None:
        """Close the file and release the folder's lock."""
        self._close()
        self._high_water.close()
        if self._folder_lock is not None:
            self._folder_lock.release()
            self._folder_lock = None


def _write_schema(new: lmdb.Environment, tables: Tables) -> None:
    with new.begin(write=True) as transaction:
        transaction.put(b"meta", pack_meta({"schema": SCHEMA}), db=tables.meta)


def _has_users(file: LmdbFile) -> bool:
    with file.env.begin(buffers=True) as transaction:
        return file.open_tables(transaction).root("users").keys > 0


def _free_bytes(file: LmdbFile) -> int:
    with file.env.begin() as transaction:
        return free_bytes(file.descriptor, file.page, transaction.id())


_registry_lock, _fork_lock = threading.Lock(), threading.Lock()
_folders: dict[Path, LmdbFolder] = {}
_in_use_at_fork: dict[Path, LmdbFolder] = {}
"""In a child: what could not be closed there, and is kept so that nothing else closes it."""
_held: list[LmdbFolder] = []
"""Folders of which nothing is read or written while this process is forked."""


def _before_fork() -> None:
    """Wait for transactions to end, and let none begin; what goes on for long is not waited for."""
    _fork_lock.acquire()
    end = time.monotonic() + FORK_PATIENCE
    if _registry_lock.acquire(timeout=FORK_PATIENCE):
        folders = list(_folders.values())
        _registry_lock.release()
        _held.extend(x for x in folders if x.hold(max(0.0, end - time.monotonic())))


def _after_fork_in_parent() -> None:
    for folder in _held:
        folder.let_go()
    _held.clear()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    """Close what the parent has open. In a child nobody holds the locks of the parent's threads."""
    global _registry_lock, _fork_lock
    _registry_lock, _fork_lock = threading.Lock(), threading.Lock()
    for path, folder in _folders.items():
        if folder in _held:
            folder.close_inherited()
        else:
            _in_use_at_fork[path] = folder
    _folders.clear()
    _held.clear()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
