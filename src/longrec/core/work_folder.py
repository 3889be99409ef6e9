"""Hidden folders for what is not finished: gone with their process, or swept by the next one.

A folder `.NAME.xxxx.part` stands beside the place NAME whose content is being made. The process
that made it holds a lock in it. Whoever makes another one for the same place removes those whose
lock nobody holds: a process that was killed leaves nothing for longer than until the next one. A
folder without our lock's file is somebody else's and is left alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

MARK = ".longrec-part"
"""The lock's file in each such folder."""


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
        self.path = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=place.parent))
        self._lock = FileLock(self.path / MARK, thread_local=False)
        self._lock.acquire()
        self.close = weakref.finalize(self, _remove, self.path, self._lock, os.getpid())


def sweep(place: Path) -> None:
    """Remove what processes that have ended left of their work on `place`."""
    prefix, suffix = _names(place)
    with suppress(OSError):
        for name in os.listdir(place.parent):
            if name.startswith(prefix) and name.endswith(suffix):
                folder = place.parent / name
                if (folder / MARK).is_file():
                    _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    lock = FileLock(folder / MARK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # its process lives, or it is not ours to write to
        return
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()


def _names(place: Path) -> tuple[str, str]:
    return f".{place.name}.", ".part"


def _remove(path: Path, lock: BaseFileLock, process: int) -> None:
    if os.getpid() != process:  # a fork has a copy of the object, and not the folder
        return
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        lock.release()
