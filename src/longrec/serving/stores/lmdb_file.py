"""The files of an LMDB store: opened, checked and made, and LMDB's errors in plain words.

    store-7.mdb        LMDB's file; the highest number counts, and compacting makes the next one
    store-7.mdb-lock   LMDB's table of readers
    store-8.tmp        while compacting
    high-water         of which file how many transactions were acknowledged (high_water.py)

Files are numbered since LMDB keeps its place in the lock file too: another file put under the same
name beside a living reader would be taken up at a wrong place, and be lost.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import lmdb

from longrec.core.errors import DataError
from longrec.core.files import sync, sync_names
from longrec.core.lock import LOCK
from longrec.core.rights import as_of
from longrec.serving.stores.lmdb_inspect import check_free
from longrec.serving.stores.lmdb_pages import Pages
from longrec.serving.stores.lmdb_room import leave_spare_pages
from longrec.serving.stores.lmdb_tables import LOG_AT, LOG_KEY, OpenTables, Tables, load_meta
from longrec.serving.stores.protocol import (
    StoreDamaged,
    StoreFull,
    StoreUnavailable,
    check_schema,
)

MAPS = [2**power for power in (40, 38, 36, 34, 32, 30)]
"""Address space asked for, in bytes: the first that the process gets. It takes no memory."""

REOPEN = (lmdb.PanicError, lmdb.MapResizedError, lmdb.BadRslotError)
"""What LMDB says when the environment, not the file, has to be given up."""

_NAME = re.compile(r"store-(\d+)\.(mdb|mdb-lock|tmp)")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # EIO: a write was cut short
_DAMAGED = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.NotFoundError,
    lmdb.BadValsizeError,
    lmdb.BadTxnError,
)


class LmdbFile(NamedTuple):
    """An open file.

    descriptor, page : by which pages of so many bytes are read; locked : whether LMDB knows of who
    reads it; guard : where it cannot know that, a descriptor that keeps writers out, -1 as long as
    there never was one; else None.
    """

    path: Path
    env: lmdb.Environment
    tables: Tables
    descriptor: int
    page: int
    locked: bool
    guard: int | None

    @property
    def number(self) -> int:
        return int(self.path.stem.removeprefix("store-"))

    def open_tables(self, transaction: lmdb.Transaction[Any]) -> OpenTables:
        """The tables within a transaction."""
        return OpenTables(transaction, self.tables, self.descriptor, self.page)

    @property
    def is_shared_by_now(self) -> bool:
        """Whether somebody uses it with a table of readers, to which this reader is not known."""
        if self.guard is None:
            return not self.locked and lock_of(self.path).exists()
        return self.guard < 0 and self.path.with_name(LOCK).exists()

    def close(self) -> None:
        self.env.close()
        os.close(self.descriptor)
        _let_writers_in(self.guard)


def lock_of(path: Path) -> Path:
    """The table of readers of a file."""
    return path.with_name(f"{path.name}-lock")


def newest_number(folder: Path) -> int:
    """The number of the file that counts; 0 where there is none."""
    names = os.listdir(folder) if folder.is_dir() else []
    found = (_NAME.fullmatch(name) for name in names)
    return max((int(one[1]) for one in found if one and one[2] == "mdb"), default=0)


def open_newest(folder: Path, durable: bool, readonly: bool, url: str) -> LmdbFile:
    """Open the file that counts, and delete others unless it is only read.

    Nothing is changed if it cannot be used: DataError, or what LMDB raises.
    """
    number = newest_number(folder)
    if not number:
        raise DataError(f"{folder}: there is no store of users in this folder")
    path = folder / f"store-{number}.mdb"
    # Without a table of readers nobody writes to it, and who only reads leaves none behind.
    locked, guard = not readonly or lock_of(path).exists(), None
    if readonly and locked and not os.access(lock_of(path), os.W_OK):
        locked, guard = False, keep_writers_out(folder, url)
    try:
        if not os.path.getsize(path):  # LMDB would begin a new store in it
            raise DataError(
                f"{path} is damaged, it is empty: restore a backup (`longrec store restore`)"
            )
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            env = open_environment(path, durable, readonly, locked)
        except BaseException:
            os.close(descriptor)
            raise
    except BaseException as error:
        _let_writers_in(guard)
        if not isinstance(error, (lmdb.Error, OSError)):
            raise
        if readonly and not path.exists():  # its writer has put another one in its place
            return open_newest(folder, durable, readonly, url)
        raise
    page = env.stat()["psize"]
    try:
        _check_size(env, path, Pages(descriptor, page))
        meta = env.open_db(b"meta", create=False)
        with env.begin() as transaction:  # before all else: another schema may have other tables
            check_schema(load_meta(transaction, meta), url)
        tables = Tables(*(env.open_db(name.encode(), create=False) for name in Tables._fields))
        file = LmdbFile(path, env, tables, descriptor, page, locked, guard)
        if not readonly:
            check_free(descriptor, page, env.info()["last_txnid"])
            if durable:  # from now on all that is found here is said to be on the disk
                sync(path)
            sync_names(path)
    except BaseException:
        env.close()
        os.close(descriptor)
        _let_writers_in(guard)
        raise
    if not readonly:
        env.reader_check()  # the slots of readers that died
        for name in os.listdir(folder):  # what a process left that died while compacting
            found = _NAME.fullmatch(name)
            if found and (int(found[1]) != number or found[2] == "tmp"):
                (folder / name).unlink(missing_ok=True)
    return file


def keep_writers_out(folder: Path, url: str) -> int:
    """See that nobody writes to a folder, and let nobody, until the descriptor is closed.

    It is for who may only read there, as on a read-only mount: a writer would not know which pages
    are being read. -1: nobody has ever written there.

    Raises
    ------
    StoreUnavailable
        When somebody writes to it.
    """
    try:
        guard = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(guard)
        raise StoreUnavailable(
            f"{url} is being written to, and may only be read from here, so that its writer would "
            "not know of it: do this where its folder may be written to, as the writer's user, or "
            "on a snapshot of the disk"
        ) from None
    return guard


def _let_writers_in(guard: int | None) -> None:
    if guard is not None and guard >= 0:
        os.close(guard)


def make_next(folder: Path, fill: Callable[[lmdb.Environment, Tables], None]) -> None:
    """Make the file that counts from now on; when this returns it is on disk, filled by `fill`."""
    path = folder / f"store-{newest_number(folder) + 1}.tmp"
    path.unlink(missing_ok=True)
    try:
        env = open_environment(path, durable=False, readonly=False, lock=False)
        try:
            tables = Tables(*(env.open_db(name.encode()) for name in Tables._fields))
            fill(env, tables)
            leave_spare_pages(env, tables.meta)
        finally:
            env.close()
        _give_rights(folder, path)
        sync(path)
        path.replace(path.with_suffix(".mdb"))
    finally:
        path.unlink(missing_ok=True)
    sync(folder)


def _give_rights(folder: Path, path: Path) -> None:
    """Give a new file the owner and the rights of the one before; the first one is the folder's
    owner's, and of the folder's group where that may write there."""
    before = folder / f"store-{newest_number(folder)}.mdb"
    if before.exists():
        as_of(path, before)
        return
    as_of(path, folder)
    path.chmod(0o660 if folder.stat().st_mode & stat.S_IWGRP else 0o600)


def give_rights_beside(data: Path, *names: str) -> None:
    """Let the table of readers, and files of these names, be used by all who may use the data."""
    for path in (lock_of(data), *map(data.with_name, names)):
        if path.exists():
            as_of(path, data)


def open_environment(
    path: Path, durable: bool, readonly: bool, lock: bool = True
) -> lmdb.Environment:
    """Open a file of LMDB's, with as much address space as the process gets.

    durable : every commit waits for the disk, for the data and again for the page that makes them
        valid. Otherwise for neither.
    """
    for size in MAPS:
        try:
            return lmdb.open(
                str(path),
                map_size=size,
                subdir=False,
                readonly=readonly,
                sync=durable,
                metasync=durable,
                lock=lock,
                mode=0o600,
                max_dbs=len(Tables._fields),
                max_readers=2048,
                max_spare_txns=0,
                # Pages are read here and there. meminit stays on: what stands in free memory, such
                # as ids of users that were forgotten, shall not get into the file.
                readahead=False,
            )
        except lmdb.MemoryError:
            if size == MAPS[-1]:
                raise
    raise AssertionError("unreachable")


def _check_size(env: lmdb.Environment, path: Path, pages: Pages) -> None:
    """See that a file has all its pages: to read one that is missing ends the process.

    Pages at the end that were taken and freed again in one transaction are never written. So of a
    file that is shorter than its last page says all pages are looked up.

    Raises
    ------
    DataError
        When pages are missing.
    """
    info, size = env.info(), os.path.getsize(path)
    if size >= (info["last_pgno"] + 1) * pages.size:
        return
    meta = pages.meta(info["last_txnid"])
    for _, root in pages.tables(meta.main) if meta is not None else ():
        for _ in pages.pairs(root):
            pass
    if meta is None or size % pages.size or any(broken.is_missing for broken in pages.broken):
        raise DataError(
            f"{path} is damaged: it has {size:,} bytes and should have more: restore it from a "
            "backup (`longrec store restore`)"
        )


def copy_tables(source: OpenTables, new: lmdb.Environment, to: Tables) -> None:
    """Copy all keys that can be read in order, so that pages are full and hold nothing else.

    What is of no user's log, as damage may leave it, stays behind.
    """
    users = source.pages.pairs(source.root("users"))
    logs = {head[: LOG_KEY.size] for _, head in users}
    for name, copied in zip(Tables._fields, to, strict=True):
        pairs = source.pages.pairs(source.root(name))
        if name in LOG_AT:
            begin, end = LOG_AT[name], LOG_AT[name] + LOG_KEY.size
            pairs = (pair for pair in pairs if pair[0][begin:end] in logs)
        copy_pairs(pairs, new, copied, 1000 if name == "records" else 50_000)


def copy_pairs(
    pairs: Iterable[tuple[bytes, bytes]], new: lmdb.Environment, table: Any, at_once: int
) -> None:
    """Put keys in order into an empty table, some in a transaction."""
    pairs, more = iter(pairs), True
    while more:
        with new.begin(write=True) as transaction:
            batch = islice(pairs, at_once)
            more = transaction.cursor(table).putmulti(batch, append=True)[0] == at_once


def raise_in_words(error: lmdb.Error | OSError, url: str) -> NoReturn:
    """Raise what an error of LMDB's means to a user."""
    text = str(error)
    if isinstance(error, lmdb.MapFullError):
        raise StoreFull(
            f"{url} is as large as this process can map: nothing of this was written. Allow it "
            "more address space (ulimit -v), or compact the store"
        ) from error
    if any(os.strerror(code) in text for code in _FULL):
        raise StoreFull(
            f"{url} has no room to grow (disk, quota or limit of file sizes), or its disk fails "
            f"({text}): nothing of this was written. Make room; the store goes on by itself"
        ) from error
    if isinstance(error, lmdb.MemoryError):
        raise StoreUnavailable(
            f"{url} finds no address space to be mapped to: it wants {MAPS[-1] / 2**30:g} GiB, and "
            "as much as it is large. Allow the process more (ulimit -v)"
        ) from error
    if isinstance(error, _DAMAGED):
        raise StoreDamaged(
            f"{url} is damaged or no store of users ({text}): see `longrec store verify`; the mend "
            "is to restore a backup (`longrec store restore`)"
        ) from error
    raise StoreUnavailable(f"{url} cannot be used: {text}") from error
