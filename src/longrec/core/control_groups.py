"""The control groups of this process, by which Linux and containers limit what it gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS, _TOP = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def groups_of(controller: str) -> Iterator[tuple[int, Path]]:
    """The folders of the groups that limit this process, its own one first, then those above.

    Parameters
    ----------
    controller : "cpu" or "memory".

    Yields
    ------
    tuple
        The version of control groups, 1 or 2, and a folder; in a container it may not be there,
        where the process is told a path that it does not see, but the top of all is.
    """
    with suppress(OSError):
        for line in _GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            version, top = (1, _TOP / controller) if controllers else (2, _TOP)
            group = top / path.strip("/")
            yield version, group
            while group != top:
                group = group.parent
                yield version, group
