"""Hidden folders for what is not finished: gone with their process, or swept by the next one.

A folder `.NAME.xxxx.part` stands beside the place NAME whose content is being made, and beside it a
file of that name with `.lock` behind, on which its process holds a lock. Whoever makes another one
for the same place removes those whose lock nobody holds: a process that was killed leaves nothing
for longer than until the next one. A folder without such a file is somebody else's and is left
alone.
"""

from __future__ import annotations

import os
import secrets
import shutil
import weakref
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

LOCK = ".lock"
"""What the lock's file has behind the folder's name."""


class WorkFolder:
    """A new hidden folder beside `place`, removed by `close`, by the end of this object or process.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        sweep(place)
        prefix, suffix = _names(place)
        self.path = place.with_name(f"{prefix}{secrets.token_hex(4)}{suffix}")
        self._lock = FileLock(f"{self.path}{LOCK}", thread_local=False)
        self._lock.acquire()
        self.close = weakref.finalize(self, _remove, self.path, self._lock, os.getpid())
        self.path.mkdir(mode=0o700)


def sweep(place: Path) -> None:
    """Remove what processes that have ended left of their work on `place`."""
    prefix, suffix = _names(place)
    with suppress(OSError):
        for name in os.listdir(place.parent):
            if name.startswith(prefix) and name.endswith(f"{suffix}{LOCK}"):
                _remove_if_left(place.with_name(name.removesuffix(LOCK)))


def _remove_if_left(folder: Path) -> None:
    lock = FileLock(f"{folder}{LOCK}", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # its process lives, or it is not ours to write to
        return
    _remove(folder, lock, os.getpid())


def _names(place: Path) -> tuple[str, str]:
    return f".{place.name}.", ".part"


def _remove(path: Path, lock: BaseFileLock, process: int) -> None:
    if os.getpid() != process:  # a fork has a copy of the object, and not the folder
        return
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
