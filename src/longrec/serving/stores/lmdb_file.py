"""One LMDB file: opened, checked, copied, and its errors in plain words."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import NoReturn

import lmdb

from longrec.core.errors import DataError
from longrec.serving.stores.lmdb_tables import Tables
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable

MAPS = [2**power for power in (40, 38, 36, 34, 32, 30)]
"""Address space asked for, in bytes: the first that the process gets. It takes no memory."""

REOPEN = (lmdb.PanicError, lmdb.MapResizedError, lmdb.BadRslotError)
"""What LMDB says when the environment, not the file, has to be given up."""

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


def open_file(
    path: Path, durable: bool, readonly: bool = False, lock: bool = True
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


def check_size(env: lmdb.Environment, path: Path) -> None:
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
    if isinstance(error, _DAMAGED):
        raise DataError(
            f"{url} is damaged or no store of users ({text}): restore it from a backup "
            "(`longrec store restore`)"
        ) from error
    raise StoreUnavailable(f"{url} cannot be used: {text}") from error
