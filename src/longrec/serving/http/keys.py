"""API keys: who may ask. They are compared in constant time, and written nowhere.

What a file of keys says now is what counts, as with sshd's authorized_keys: a key that is taken
out of it ends at once, whatever else is wrong in the file. Of a file with flaws the good lines
count; one that is gone, empty or cannot be read lets nobody in. Each flaw is an error in the log,
by its line and never by its text.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from longrec.core.errors import DataError, UsageError
from longrec.serving.http import access_log

VARIABLE = "LONGREC_API_KEYS"
"""Environment variable with keys, white space between them, where no file is named."""
SHORTEST = 16
"""Characters that a key must have."""
MAKE_ONE = "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
MOST_BYTES = 1 << 20
"""Of a file of keys; a larger one is some other file."""
_Stamp = tuple[int, ...]
UNSETTLED = 50_000_000
"""Nanoseconds for which a file that has changed is read at each request: clocks of file systems
are coarse."""
SHOWN = 10
"""Flaws of a file that are logged one by one."""


class Keys:
    """The keys in a file, which is read again when it changes, or in the environment.

    Parameters
    ----------
    file : Path or None
        A key per line; empty lines and those that begin with # do not count. None: the variable
        LONGREC_API_KEYS.

    Raises
    ------
    DataError
        When the file cannot be read, or holds no key.
    UsageError
        When a key in the variable is shorter than 16 characters.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file: Path | None = file
        self._stamp: _Stamp | None = None
        self._found, self._asked = _Found([], []), False
        if file is None:
            self._found = _find_keys(os.environ.get(VARIABLE, "").split())
            if self._found.flaws:
                number, what = self._found.flaws[0]
                raise UsageError(f"{VARIABLE}: key {number} {what} ({MAKE_ONE})")
        else:
            self._read(file)
            if self._found.problem:
                raise DataError(f"{file}: {self._found.problem} ({MAKE_ONE})")

    def __bool__(self) -> bool:
        """Whether keys are asked for; they still are where the file has none any more."""
        return self._file is not None or bool(self._found.digests)

    def __len__(self) -> int:
        """How many keys there are now."""
        return len(self._found.digests)

    @property
    def flaws(self) -> int:
        """How many lines are no keys; 1 where there is no file, or it cannot be read."""
        return len(self._found.flaws) or int(bool(self._found.problem))

    def knows(self, key: str) -> str | None:
        """A short name of a key (no part of it) if it is one of them now, else None."""
        if self._file is not None:
            now = _stamp(self._file)
            if now is None or now != self._stamp:
                self._read(self._file)
        asked = _digest(key)
        # All are compared, so that the time taken tells nothing.
        found = [hmac.compare_digest(asked, digest) for digest in self._found.digests]
        return asked.hex()[:12] if any(found) else None

    def _read(self, file: Path) -> None:
        """Take what a file says now; where that is something else, log it, and what is wrong."""
        before, self._stamp = self._found, _stamp(file)
        try:
            content = _content(file, first=not self._asked)
        except OSError as error:
            why = error.strerror or str(error)
            found = _Found([], [], f"the file of API keys cannot be read: {why}")
            self._stamp = None  # it is tried again
        else:
            lines = content.decode("utf-8-sig", "surrogateescape").splitlines()
            found = _find_keys([line.strip() for line in lines])
            if not found.digests:
                flaws = [f"; line {number} {what}" for number, what in found.flaws[:SHOWN]]
                found = found._replace(problem="holds no API key" + "".join(flaws))
        self._found, self._asked = found, True
        if found != before:
            for number, what in found.flaws[:SHOWN]:
                access_log.write("keys: a line is none", logging.ERROR, line=number, problem=what)
            if found.problem:
                access_log.write("keys: nobody may ask", logging.ERROR, problem=found.problem)
            access_log.write("keys: read", keys=len(self), flaws=self.flaws)


class _Found(NamedTuple):
    """Digests of keys; what is wrong with the others: their numbers, from 1, and why; and why
    there are none at all."""

    digests: list[bytes]
    flaws: list[tuple[int, str]]
    problem: str = ""


def _content(file: Path, first: bool) -> bytes:
    """What is in a file of keys; OSError where it cannot be read, or is some other file.

    first : whether nobody waits yet, so that a pipe may take its time.
    """
    # Of a pipe that nobody writes to, opening alone would stop the service for good.
    at_once = 0 if first else getattr(os, "O_NONBLOCK", 0)  # Windows has no such pipes
    with open(file, "rb", opener=lambda path, flags: os.open(path, flags | at_once)) as opened:
        if not first and not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise OSError("it is no plain file any more")
        content: bytes = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(f"it has more than {MOST_BYTES:,} bytes")
    return content


def _find_keys(lines: list[str]) -> _Found:
    found = _Found([], [])
    for number, key in enumerate(lines, 1):
        if not key or key[0] == "#":
            continue
        if len(key) < SHORTEST:
            what = f"has {len(key)} characters; it must have {SHORTEST} or more"
        elif not (key.isascii() and key.isprintable()) or " " in key:
            what = "has a character that no header can carry: letters, digits and signs are allowed"
        else:
            found.digests.append(_digest(key))
            continue
        found.flaws.append((number, what))
    return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _stamp(file: Path) -> _Stamp | None:
    """What changes with a file's content, its place and its rights.

    None: there is none, or it changed so lately that another change might look alike.
    """
    try:
        found = os.stat(file)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return ()  # a pipe, as of --keys <(command), is read once
    if abs(time.time_ns() - found.st_ctime_ns) < UNSETTLED:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
