"""How much a store has acknowledged, kept apart from it: a store that has less was cut short.

What an engine does after a crash is its own affair: it may go back to an earlier state, or leave
out the end of its file, and say nothing. The mark is written after what it counts, so that it never
says too much; it is not synced, and after a power cut may say too little.

Of a store that does not wait for the disk the mark says as well, and that is synced before the
first write, in which run of the machine it is being written to. Found in another run, it was in a
power cut: anything of it that was not on the disk may be missing, whatever the counts say.
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

from longrec.core.files import sync

_MARK = struct.Struct("<8sQQQ")
_CHECK = struct.Struct("<I")
_MAGIC = b"LRmark2\n"


class Mark(NamedTuple):
    """Of which store, or file of it, and how many writes it has acknowledged.

    unsynced : the run of the machine in which some of them may not be on the disk yet; 0: all are.
    """

    of: int
    writes: int
    unsynced: int = 0


UNREADABLE = Mark(0, 0, 0)
"""In place of a mark that cannot be read, or is gone. No store has the number 0."""


class HighWater:
    """The mark in a file, which is made when it is first written.

    Where it cannot be written, it is not: a store does not fail by its mark.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, -1

    def read(self) -> Mark | None:
        """The mark; None where there is none, UNREADABLE where nobody knows what it said."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        if len(content) < _MARK.size or not any(content):
            return None  # as a power cut leaves a file that was new
        head, end = content[: _MARK.size], content[_MARK.size :]
        if end != _CHECK.pack(crc32(head)):
            return UNREADABLE
        magic, *mark = _MARK.unpack(head)
        return Mark(*mark) if magic == _MAGIC else None

    def write(self, mark: Mark, wait: bool = False) -> None:
        """Keep a mark in place of the last one; on the disk if it is waited for."""
        head = _MARK.pack(_MAGIC, *mark)
        with suppress(OSError):
            if self._file < 0:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._file = os.open(self.path, flags, 0o600)
            os.pwrite(self._file, head + _CHECK.pack(crc32(head)), 0)
            if wait:
                os.fsync(self._file)
                sync(self.path.parent)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def path_of(url: str) -> Path:
    """Where the mark of a store elsewhere is kept on this machine: among the user's own files."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(base) / "longrec" / "high-water" / name


def machine_run() -> int:
    """A number that the machine gives to the time since it was started; 1 where it gives none."""
    with suppress(OSError):
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") | 1
    return 1


class Loss(NamedTuple):
    """Writes that were acknowledged and are not in the store any more, at least so many.

    torn : whether it was in a power cut, without waiting for the disk: any part may be missing.
    unknown : whether the mark is damaged or gone, so that nobody knows what was acknowledged.
    """

    writes: int
    torn: bool = False
    unknown: bool = False

    def __str__(self) -> str:
        what = (
            f"it was cut short: the last {self.writes:,} writes that it acknowledged, or more, are "
            "not in it"
        )
        if self.torn:
            what = (
                "it was open when the machine went down, or another machine has taken it over, and "
                "not all of it was on the disk (durability process): the last writes may be "
                "missing, whole or in part"
            )
        if self.unknown:
            what = (
                "the file that counts what it acknowledged is damaged or gone: the last writes may "
                "be missing, and nobody can tell"
            )
        return f"{what}. Send again what was observed since, with event ids, or restore a backup"


def loss(mark: Mark | None, now: Mark) -> Loss | None:
    """What a store has lost whose last mark is this one, and which has so much in this run."""
    if mark is None:
        return None
    if mark is UNREADABLE:
        return Loss(0, unknown=True)
    missing = max(0, mark.writes - now.writes) if mark.of == now.of else 0
    torn = mark.unsynced not in (0, now.unsynced)
    return Loss(missing, torn) if missing or torn else None


def note_loss(meta: dict[str, Any], lost: Loss) -> None:
    """Note it in the store's meta, where it stays until somebody accepts it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    meta.setdefault("losses", []).append({"found": now, **lost._asdict()})
