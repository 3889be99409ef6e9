"""How much a store has acknowledged, kept apart from it: a store that has less was cut short.

What an engine does after a crash is its own affair: it may go back to an earlier state, or leave
out the end of its file, and say nothing. The mark is written after what it counts, so that it never
says too much; it is not synced, and after a power cut may say too little.
"""

from __future__ import annotations

import hashlib
import os
import struct
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

_MARK = struct.Struct("<8sQQ")
_CHECK = struct.Struct("<I")
_MAGIC = b"LRmark1\n"


class Mark(NamedTuple):
    """Of which store, or file of it, and how many writes it has acknowledged."""

    of: int
    writes: int


class HighWater:
    """The mark in a file, which is made when it is first written.

    Where it cannot be written, it is not: a store does not fail by its mark.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, -1

    def read(self) -> Mark | None:
        """The mark; None where there is none, or it is damaged."""
        try:
            content = self.path.read_bytes()
            head, end = content[: _MARK.size], content[_MARK.size :]
            magic, of, writes = _MARK.unpack(head)
        except (OSError, struct.error):
            return None
        return Mark(of, writes) if (magic, end) == (_MAGIC, _CHECK.pack(crc32(head))) else None

    def write(self, mark: Mark) -> None:
        """Keep a mark in place of the last one."""
        head = _MARK.pack(_MAGIC, *mark)
        with suppress(OSError):
            if self._file < 0:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._file = os.open(self.path, flags, 0o600)
            os.pwrite(self._file, head + _CHECK.pack(crc32(head)), 0)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def path_of(url: str) -> Path:
    """Where the mark of a store elsewhere is kept on this machine: among the user's own files."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(base) / "longrec" / "high-water" / name


class Loss(NamedTuple):
    """Writes that were acknowledged and are not in the store any more, at least so many."""

    writes: int

    def __str__(self) -> str:
        return (
            f"it was cut short: the last {self.writes:,} writes that it acknowledged, or more, are "
            "not in it. Send again what was observed since, with event ids, or restore a backup"
        )


def loss(mark: Mark | None, of: int, writes: int) -> Loss | None:
    """What a store has lost whose last mark is this one, and which has so many writes."""
    if mark is None or mark.of != of or mark.writes <= writes:
        return None
    return Loss(mark.writes - writes)


def note_loss(meta: dict[str, Any], lost: Loss) -> None:
    """Note it in the store's meta, where it stays until somebody accepts it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    meta.setdefault("losses", []).append({"found": now, "writes": lost.writes})
