"""Room on the disk for LMDB's file: whether there is some, and some that is kept for forgetting.

LMDB writes no page where one is that the last transaction needs. So a transaction takes free pages,
those that transactions before the last one have left, and where these are too few the file grows.
On a full disk a user can be forgotten as long as some pages are free. Every transaction leaves as
many as it replaced, and a file that is new, or was copied, is given some.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import lmdb

ROOM = 1 << 20
"""Bytes that there must be room for."""
SPARE = 1 << 17
"""Bytes of free pages in a file that was made anew."""


def check_room(env: lmdb.Environment, path: Path) -> None:
    """See that a file can grow, without touching it: room is taken by another one beside it.

    Raises
    ------
    StoreFull
        When there is no address space left for it.
    OSError
        When the disk, a quota or a limit of the size of files has no room.
    """
    info, wanted = env.info(), os.path.getsize(path) + ROOM
    if (info["last_pgno"] + 1) * env.stat()["psize"] + ROOM > info["map_size"]:
        raise lmdb.MapFullError("no address space is left")
    if not hasattr(os, "posix_fallocate"):
        return  # macOS: it is known when something is written
    import resource  # which Windows has not

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and wanted > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    with tempfile.TemporaryFile(dir=path.parent) as other:  # without a name
        os.posix_fallocate(other.fileno(), 0, ROOM)


def leave_spare_pages(env: lmdb.Environment, table: Any) -> None:
    """Let a file have some free pages: put zeros there, and delete them.

    Pages are free from the second transaction on after the one that left them.
    """
    for size in (SPARE, 1):
        with env.begin(write=True) as transaction:
            transaction.put(b"spare", bytes(size), db=table)
        with env.begin(write=True) as transaction:
            transaction.delete(b"spare", db=table)
