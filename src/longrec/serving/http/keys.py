"""API keys: who may ask. They are compared in constant time, and written nowhere."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from time import monotonic

from longrec.core.errors import DataError, LongrecError, UsageError

VARIABLE = "LONGREC_API_KEYS"
"""Environment variable with keys, white space between them, where no file is named."""
SHORTEST = 16
"""Characters that a key must have."""
CHECK_EVERY = 1.0
"""Seconds after which a file of keys is looked at again, when somebody asks."""


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
        When a key is shorter than 16 characters.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file, self._stamp, self._checked = file, (0, 0), 0.0
        self._digests: list[bytes] = []
        if file is None:
            self._digests = _digests(os.environ.get(VARIABLE, "").split(), VARIABLE)
        else:
            self._read(file)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def knows(self, key: str) -> str | None:
        """A short name of a key (no part of it) if it is one of them, else None."""
        if self._file is not None and monotonic() - self._checked > CHECK_EVERY:
            self._reload_if_changed(self._file)
        asked = _digest(key)
        # All are compared, so that the time taken tells nothing.
        found = [hmac.compare_digest(asked, digest) for digest in self._digests]
        return asked.hex()[:12] if any(found) else None

    def _reload_if_changed(self, file: Path) -> None:
        """Take a file that has changed; one that is gone or holds no key changes nothing."""
        self._checked = monotonic()
        try:
            if _stamp(file) != self._stamp:
                self._read(file)
        except (LongrecError, OSError):
            return  # an operator amid editing it must not lock everybody out

    def _read(self, file: Path) -> None:
        try:
            stamp, text = _stamp(file), file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: the file of API keys cannot be read: {error}") from error
        lines = [line.strip() for line in text.splitlines()]
        digests = _digests([line for line in lines if line and line[0] != "#"], str(file))
        if not digests:
            raise DataError(f"{file} holds no API key: write one per line, {SHORTEST} or more long")
        self._digests, self._stamp, self._checked = digests, stamp, monotonic()


def _digests(keys: list[str], source: str) -> list[bytes]:
    for number, key in enumerate(keys, 1):
        if len(key) < SHORTEST:
            raise UsageError(
                f"{source}: key {number} has {len(key)} characters; it must have {SHORTEST} or "
                "more (python -c 'import secrets; print(secrets.token_urlsafe())' makes one)"
            )
    return [_digest(key) for key in keys]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size
