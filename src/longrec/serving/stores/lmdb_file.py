"""The files of an LMDB store: opened, checked and made, and LMDB's errors in plain words.

    store-7.mdb        LMDB's file; the highest number counts, and compacting makes the next one
    store-7.mdb-lock   LMDB's table of readers
    store-8.tmp        while compacting

Files are numbered since LMDB keeps its place in the lock file too: another file put under the same
name beside a living reader would be taken up at a wrong place, and be lost.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple, NoReturn

import lmdb

from longrec.core.errors import DataError
from longrec.core.files import sync
from longrec.serving.stores.lmdb_room import leave_spare_pages
from longrec.serving.stores.lmdb_tables import Tables, load_meta
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable, check_schema

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
)
_READ_ALL = """
import lmdb, sys
env = lmdb.open(sys.argv[1], subdir=False, readonly=True, max_dbs=16, map_size=2**30)
with env.begin() as transaction:
    for name in list(transaction.cursor().iternext(values=False)):
        for _ in transaction.cursor(env.open_db(name, transaction, create=False)):
            pass
"""


class LmdbFile(NamedTuple):
    """An open file."""

    path: Path
    env: lmdb.Environment
    tables: Tables


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
    try:
        if not os.path.getsize(path):  # LMDB would begin a new store in it
            raise DataError(
                f"{path} is damaged, it is empty: restore a backup (`longrec store restore`)"
            )
        env = _open_environment(path, durable, readonly)
    except (lmdb.Error, OSError):
        if readonly and not path.exists():  # its writer has put another one in its place
            return open_newest(folder, durable, readonly, url)
        raise
    try:
        _check_size(env, path)
        meta = env.open_db(b"meta", create=False)
        with env.begin() as transaction:  # before all else: a newer schema may have other tables
            check_schema(load_meta(transaction, meta), url)
        tables = Tables(*(env.open_db(name.encode(), create=False) for name in Tables._fields))
    except BaseException:
        env.close()
        raise
    if not readonly:
        env.reader_check()  # the slots of readers that died
        for name in os.listdir(folder):  # what a process left that died while compacting
            found = _NAME.fullmatch(name)
            if found and (int(found[1]) != number or found[2] == "tmp"):
                (folder / name).unlink(missing_ok=True)
    return LmdbFile(path, env, tables)


def make_next(folder: Path, fill: Callable[[lmdb.Environment, Tables], None]) -> None:
    """Make the file that counts from now on; when this returns it is on disk, filled by `fill`."""
    path = folder / f"store-{newest_number(folder) + 1}.tmp"
    path.unlink(missing_ok=True)
    try:
        env = _open_environment(path, durable=False, readonly=False, lock=False)
        try:
            tables = Tables(*(env.open_db(name.encode()) for name in Tables._fields))
            fill(env, tables)
            leave_spare_pages(env, tables.meta)
        finally:
            env.close()
        sync(path)
        path.replace(path.with_suffix(".mdb"))
    finally:
        path.unlink(missing_ok=True)
    sync(folder)


def _open_environment(
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


def _check_size(env: lmdb.Environment, path: Path) -> None:
    """See that a file has all its pages: to read one that is missing ends the process.

    Pages at the end that were taken and freed again in one transaction are never written. So a file
    that is shorter than its last page says is read as a whole, by another process.

    Raises
    ------
    DataError
        When pages are missing.
    """
    page, size = env.stat()["psize"], os.path.getsize(path)
    if size >= (env.info()["last_pgno"] + 1) * page:
        return
    reading = [sys.executable, "-c", _READ_ALL, str(path)]
    if size % page or subprocess.run(reading, capture_output=True).returncode:
        raise DataError(
            f"{path} is damaged: it has {size:,} bytes and should have more: restore it from a "
            "backup (`longrec store restore`)"
        )


def copy_tables(
    source: lmdb.Transaction[memoryview], tables: Tables, new: lmdb.Environment, to: Tables
) -> None:
    """Copy all keys in order, so that pages are full and hold nothing else."""
    for name, table, copied in zip(Tables._fields, tables, to, strict=True):
        pairs = iter(source.cursor(table))
        more, at_once = True, 1000 if name == "records" else 50_000
        while more:
            with new.begin(write=True) as transaction:
                batch = islice(pairs, at_once)
                more = transaction.cursor(copied).putmulti(batch, append=True)[0] == at_once


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
        raise DataError(
            f"{url} is damaged or no store of users ({text}): restore it from a backup "
            "(`longrec store restore`)"
        ) from error
    raise StoreUnavailable(f"{url} cannot be used: {text}") from error
