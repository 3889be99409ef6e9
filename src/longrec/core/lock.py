"""Locks that let one process at a time write to a folder or a file.

A lock ends when it is released and when its process dies, however that happens. A process forked
while it is held does not share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from longrec.core.errors import LongrecError

LOCK = ".lock"
"""The file that stands in a folder while a process writes to it."""
PATIENCE = 0.05
"""Seconds that a lock which is being released is waited for."""


@contextmanager
def locked(folder: Path, what: str, name: str = LOCK) -> Iterator[None]:
    """Make a folder and lock it, so that no other `what` ("training", …) writes to it meanwhile.

    `name` is the lock's file: what is locked by others does not exclude each other.

    Raises
    ------
    LongrecError
        When it cannot be written to, or another `what` has locked it.
    """
    lock = lock_folder(folder, f"{folder}: another {what} is writing to it", name)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / name).unlink()
        lock.release()


def lock_folder(folder: Path, refusal: str, name: str = LOCK) -> BaseFileLock:
    """Make a folder and lock it by a file in it, until `release` or the end of the process.

    Raises
    ------
    LongrecError
        When it cannot be written to; with the words `refusal` when another process has locked it.
    """
    lock = FileLock(folder / name, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=PATIENCE, poll_interval=PATIENCE / 5)
    except Timeout:
        raise LongrecError(refusal) from None
    except OSError as error:
        raise LongrecError(f"{folder} cannot be written to: {error}") from error
    return lock
