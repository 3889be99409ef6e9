"""Messages that are no events, kept in a file with the reason of each: a JSON object per line.

    {"partition": "clicks[0]", "offset": "17", "kind": "format", "reason": "the message is no JSON",
     "time": 1763715600.0, "key": "ann", "value": "{"}

Bytes that are no text stand as {"base64": …}. A line is on disk before the message counts as done;
a message that is read again after a crash is not written again. Several consumers may share a file.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from longrec.core.errors import UsageError
from longrec.core.files import naming
from longrec.ingest.source import Message

TAIL, KNOWN = 8 << 20, 100_000
"""Bytes at the file's end in which messages are looked for that are read again, and how many of
them are remembered."""


class DeadLetter(NamedTuple):
    """A message, and why it is no event.

    kind : "format", the bytes are none of the format; "event", the fields make no event; "ahead",
        its time is ahead of the clock; "conflict", another event has its id; "store", what the
        store has of its user is damaged.
    """

    message: Message
    kind: str
    reason: str


KINDS = ("format", "event", "ahead", "conflict", "store")


class DeadLetters:
    """The file; it is made when the first letter comes.

    Raises
    ------
    UsageError
        When it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[bytes, None] | None = None  # the last ones, in their order
        if (path.exists() and not (path.is_file() or path.is_char_device())) or not (
            path.parent.is_dir() and os.access(path.parent, os.W_OK)
        ):
            raise UsageError(f"--dead-letters {path} is no file that can be written")

    def keep(self, letters: Sequence[DeadLetter]) -> None:
        """Write letters to disk, all or none.

        Raises
        ------
        OSError
            When the disk is full, say; none is written then.
        """
        if not letters:
            return
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = os.fstat(file).st_size
            known = self._read(file, end)
            documents = [_document(one) for one in letters]
            new = {_identity(one): json.dumps(one).encode() + b"\n" for one in documents}
            lines = [line for identity, line in new.items() if identity not in known]
            if end and os.pread(file, 1, end - 1) != b"\n":  # whoever wrote was killed
                lines.insert(0, b"\n")
            try:
                with naming(self.path):
                    _write(file, b"".join(lines), end)
            except OSError:
                os.ftruncate(file, end)
                raise
            known.update(dict.fromkeys(new))
            for place in list(islice(known, max(len(known) - KNOWN, 0))):
                del known[place]
        finally:
            os.close(file)

    def _read(self, file: int, end: int) -> dict[bytes, None]:
        """Which messages have letters at the file's end."""
        if self._known is None:
            self._known, start = {}, max(end - TAIL, 0)
            for line in os.pread(file, end - start, start).splitlines():
                with suppress(ValueError, AttributeError):
                    self._known[_identity(json.loads(line))] = None
        return self._known


def _write(file: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written
    os.fsync(file)


def _identity(document: Mapping[str, Any]) -> bytes:
    """Of a letter's message, and of no other one: where it stands, when it came, what it holds.

    The place alone is not enough: a topic that is made anew has the same offsets again, and another
    broker's topic may have the same name.
    """
    own = {name: value for name, value in document.items() if name not in ("kind", "reason")}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).digest()


def _document(letter: DeadLetter) -> dict[str, Any]:
    message, kind, reason = letter
    value: Any = message.value
    if isinstance(value, Mapping):
        # Names stay apart, whatever bytes they are of.
        value = {name.decode("utf-8", "backslashreplace"): _shown(v) for name, v in value.items()}
    else:
        value = _shown(value)
    return {
        "partition": message.partition,
        "offset": message.offset,
        "kind": kind,
        "reason": reason,
        "time": message.time,
        "key": _shown(message.key),
        "value": value,
    }


def _shown(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
