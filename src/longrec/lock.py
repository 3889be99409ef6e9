"""Folders that one process writes to at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longrec.errors import LongrecError

LOCK = ".lock"
"""Stands in a folder while a process holds it."""


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Make a folder and hold it: no other process that asks gets it meanwhile.

    Raises
    ------
    LongrecError
        When it cannot be written to, or another `what` ("training", …) holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise LongrecError(f"{folder} cannot be written to: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LongrecError(f"{folder}: another {what} is writing to it") from None
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
