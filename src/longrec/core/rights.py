"""Who may read what is written: as the umask says, or as another file has it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def umask() -> int:
    """What this process takes away from the rights of new files."""
    with suppress(OSError, ValueError, StopIteration):  # without changing it for other threads
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0)
    os.umask(mask)
    return mask


def as_usual(path: Path) -> None:
    """Give a file the rights of any new file: some libraries make theirs for the owner alone."""
    path.chmod(0o666 & ~umask())


def as_of(path: Path, model: Path) -> None:
    """Give a file the owner, the group and the rights of another one, as far as that may be.

    Root, who makes a file anew for somebody, so gives it to whose it was; others may at least give
    it to one of their groups.
    """
    wanted, found = model.stat(), path.stat()
    if (wanted.st_uid, wanted.st_gid) != (found.st_uid, found.st_gid):  # never so on Windows
        try:
            os.chown(path, wanted.st_uid, wanted.st_gid)
        except OSError:
            with suppress(OSError):
                os.chown(path, -1, wanted.st_gid)
    with suppress(OSError):  # somebody else's
        path.chmod(stat.S_IMODE(wanted.st_mode) & 0o777)
