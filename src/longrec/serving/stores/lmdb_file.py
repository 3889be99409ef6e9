"""One LMDB file: opened, looked at before it is opened, copied, and its errors in plain words."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import NoReturn

import lmdb

from longrec.core.errors import DataError
from longrec.serving.stores.lmdb_layout import Tables
from longrec.serving.stores.protocol import StoreFull, StoreUnavailable

MAPS = [2**power for power in (40, 38, 36, 34, 32, 30)]
"""Address space asked for, in bytes: the first that the process gets. It takes no memory."""

REOPEN = (lmdb.PanicError, lmdb.MapResizedError, lmdb.BadRslotError)
"""What LMDB says when the environment, not the file, has to be given up."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DAMAGED = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.NotFoundError,
    lmdb.BadValsizeError,
)
# Of a meta page: magic, version; page size; last page, transaction. Format 1, of LMDB 0.9.
_META = struct.Struct("<16xII16xI92xQQ")
_MAGIC = 0xBEEFC0DE

_WALK = """
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


def check_file(path: Path) -> None:
    """See that a file is LMDB's and whole: LMDB maps it, and what is missing would end the process.

    Raises
    ------
    DataError
        When it is not.
    """
    with path.open("rb") as file:
        head, size = file.read(2**17), os.fstat(file.fileno()).st_size
    mend = "restore it from a backup (`longrec store restore`)"
    if len(head) < _META.size or _META.unpack_from(head)[0] != _MAGIC:
        raise DataError(f"{path} is damaged or no file of LMDB's: {mend}")
    version, page = _META.unpack_from(head)[1:3]
    if version != 1:
        return
    metas = [_META.unpack_from(head, at) for at in (0, page) if at + _META.size <= len(head)]
    last = max(metas, key=lambda meta: meta[4])[3]
    if size < (last + 1) * page and (size % page or not _walk(path)):
        raise DataError(f"{path} is damaged: it has {size:,} bytes and should have more: {mend}")


def _walk(path: Path) -> bool:
    """Whether a file is whole that is shorter than its last page says.

    Pages at the end that were taken and freed again in one transaction are not written. Another
    process looks, since reading what is missing ends it.
    """
    done = subprocess.run([sys.executable, "-c", _WALK, str(path)], capture_output=True)
    return done.returncode == 0


def copy_tables(
    source: lmdb.Transaction[memoryview], tables: Tables, new: lmdb.Environment, to: Tables
) -> None:
    """Copy all keys in order, so that pages are full and hold nothing else."""
    for name, table, copied in zip(Tables._fields, tables, to, strict=True):
        pairs = iter(source.cursor(table))
        many, at_once = True, 1000 if name == "records" else 50_000
        while many:
            with new.begin(write=True) as transaction:
                batch = islice(pairs, at_once)
                many = transaction.cursor(copied).putmulti(batch, append=True)[0] == at_once


def explain(error: lmdb.Error | OSError, url: str, path: Path) -> NoReturn:
    """Raise what an error of LMDB's means to a user."""
    said = str(error)
    if isinstance(error, lmdb.MapFullError):
        raise StoreFull(
            f"{url} is as large as this process can map: nothing of this was written. Allow it "
            "more address space (ulimit -v), or compact the store"
        ) from error
    # LMDB speaks of an input/output error when a write was cut short.
    short = os.strerror(errno.EIO) in said and not _room(path)
    if short or any(os.strerror(code) in said for code in _FULL):
        raise StoreFull(
            f"{url} has no room to grow (disk, quota or limit of file sizes): nothing of this was "
            "written. Make room; the store goes on by itself"
        ) from error
    if isinstance(error, _DAMAGED):
        raise DataError(
            f"{url} is damaged or no store of users ({said}): restore it from a backup "
            "(`longrec store restore`)"
        ) from error
    raise StoreUnavailable(f"{url} cannot be used: {said}") from error


def _room(path: Path) -> bool:
    """Whether the file that this process writes could grow."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return True
    size = os.fstat(handle).st_size
    size -= size % mmap.PAGESIZE  # part of a page that was cut short
    try:
        os.posix_fallocate(handle, size, 2**26)
    except OSError as error:
        return error.errno not in _FULL
    finally:
        os.ftruncate(handle, size)
        os.close(handle)
    return True
