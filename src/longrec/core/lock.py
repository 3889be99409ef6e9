"""Folders that one process writes to at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from longrec.core.errors import LongrecError

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
    with take(folder, f"{folder}: another {what} is writing to it"):
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def take(folder: Path, taken: str) -> TextIO:
    """Make a folder and hold it, as `take_file` holds the file `LOCK` in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LongrecError(f"{folder} cannot be written to: {error}") from error
    return take_file(folder / LOCK, taken)


def take_file(path: Path, taken: str) -> TextIO:
    """Make a file and hold it until what is returned is closed, or the process dies.

    Raises
    ------
    LongrecError
        When it cannot be written; with the words `taken` when another process holds it.
    """
    while True:
        try:
            lock = path.open("w")
        except OSError as error:
            raise LongrecError(f"{path.parent} cannot be written to: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise LongrecError(taken) from None
        # Who held it before may have deleted the file since we opened it: then we hold nothing.
        try:
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                return lock
        except FileNotFoundError:
            pass
        lock.close()
