"""Memory of this process: what it holds, what it could take, and what becomes of freed tensors.

By itself the C library glibc gives large freed blocks back to the system and fetches them again,
page by page, at each step of a training. `freed_memory_kept` ends that; with another C library the
functions that ask for it change nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOMEM
from pathlib import Path

from longrec.core.control_groups import groups_of
from longrec.core.errors import LongrecError, first_line

ALLOW = (
    "allow the process more (ulimit -v, the limit of its container or service, a larger machine), "
    "or take a smaller model or catalog"
)
_STATUS = Path("/proc/self/status")
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Their numbers in glibc's malloc.h."""
_WORDS = (
    *("allocate memory", "enough memory", "out of memory", "alloc_cpu", "bad_alloc"),
    *("failed to map segment", "can't start new thread"),
)
"""Of what PyTorch, the linker and Python say for want of it, in errors of general classes."""
_SMALL, _LARGE = 1 << 16, 1 << 25
"""Bytes of blocks that are given back at once, where they are: all but the small, or the large."""


def resident_bytes() -> int | None:
    """Bytes of memory that this process holds now; None where the system does not tell."""
    return _status_bytes("VmRSS")


def file_bytes() -> int:
    """Bytes of files that are mapped into this process and resident; 0 where nobody tells."""
    return _status_bytes("RssFile") or 0


def own_bytes() -> int:
    """Bytes of memory of this process that belong to no file; 0 where nobody tells."""
    return _status_bytes("RssAnon") or 0


def give_back_holes() -> bool:
    """Give back what is free now between what is in use. Whether the C library does so.

    By itself it keeps all but the end of its heaps: what many requests took and freed stays, in
    holes, however little is in use.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError):  # another C library
        return False


def let_go_of_files(folder: Path) -> None:
    """Take the pages of a folder's files out of this process; they stay in the system's cache.

    Who maps a file counts each page of it that was ever read as memory of its own, until the
    system needs it. A page that is read again comes back from the cache, or from the file.
    Nothing happens where the system does not tell what is mapped.
    """
    with suppress(OSError, AttributeError):
        libc, inside = ctypes.CDLL(None), f"{folder.resolve()}/"
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, rights, *_, name = line.split(None, 5)
            if name.startswith(inside) and rights[1:] == "--s":  # read alone, shared with the file
                begin, end = (int(place, 16) for place in span.split("-"))
                length = ctypes.c_size_t(end - begin)
                libc.madvise(ctypes.c_void_p(begin), length, mmap.MADV_DONTNEED)


def peak_bytes() -> int | None:
    """The most bytes of memory that this process held so far; None where the system does not tell.

    Linux counts getrusage's maximum from before this program was loaded, the parent's memory
    included; what /proc tells is this program's own.
    """
    peak = _status_bytes("VmHWM")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(name: str) -> int | None:
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def available_memory() -> int:
    """Bytes that a process can still take: of the machine, its control groups, and its limit."""
    import psutil

    return int(min(psutil.virtual_memory().available, *_rooms_of_groups(), _address_space()))


def _rooms_of_groups() -> Iterator[int]:
    """What the control groups that this process is in leave it, of both versions of these.

    What a group holds of files does not count: the system gives that up where memory is wanted.
    """
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }
    yield 1 << 62
    for version, group in groups_of("memory"):
        limit, used, files = names[version]
        with suppress(OSError, ValueError, KeyError):  # "max" where there is no limit
            stat = dict(map(str.split, (group / "memory.stat").read_text().splitlines()))
            held = int((group / used).read_text()) - int(stat[files])
            yield int((group / limit).read_text()) - held


def _address_space() -> int:
    """What `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:
        return 1 << 62
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return 1 << 62 if limit == resource.RLIM_INFINITY else limit - (_status_bytes("VmSize") or 0)


def check_room(needed: int, what: str) -> None:
    """See that there is memory for something, before it is tried: who exceeds the limit of a
    control group is killed without a word.

    Raises
    ------
    LongrecError
        When there is less than `needed` bytes.
    """
    room = available_memory()
    if room < needed:
        raise LongrecError(
            f"not enough memory for {what}: it takes {needed / 2**20:,.0f} MiB, and "
            f"{max(room, 0) / 2**20:,.0f} MiB are left to the process: {ALLOW}"
        )


def out_of_memory(error: BaseException) -> str | None:
    """What to do about an error, in a line, where it is want of memory; None where it is not."""
    text = str(error)
    libraries = isinstance(error, RuntimeError | ImportError) and any(
        word in text for word in _WORDS
    )
    if not (isinstance(error, MemoryError) or getattr(error, "errno", 0) == ENOMEM or libraries):
        return None
    resident = resident_bytes()
    facts = [first_line(error)] if text else []
    facts += [] if resident is None else [f"{resident / 2**20:,.0f} MiB are held"]
    return f"not enough memory ({'; '.join(facts)}): {ALLOW}"


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what is freed meanwhile; at the end it is given back, and from then on large blocks are
    at once."""
    keep_freed_memory()
    try:
        yield
    finally:
        _set_malloc(_MMAP_THRESHOLD, _LARGE)
        _set_malloc(_TRIM_THRESHOLD, 2 * _LARGE)
        give_back_holes()


def keep_freed_memory() -> bool:
    """Keep what is freed: steps find their pages again. Whether the C library does so.

    The process then holds until its end the most that it ever used.
    """
    return _set_malloc(_MMAP_THRESHOLD, 1 << 30) and _set_malloc(_TRIM_THRESHOLD, (1 << 31) - 1)


def give_back_freed_memory() -> bool:
    """Give it back at once: what is resident is what is in use. Whether the C library does so."""
    return _set_malloc(_MMAP_THRESHOLD, _SMALL) and _set_malloc(_TRIM_THRESHOLD, _SMALL)


def share_heaps(number: int) -> bool:
    """Let all threads to come share so many heaps. Whether the C library does so.

    By itself each thread gets one of its own, up to eight for each core, and what one of them freed
    no other one can use.
    """
    return _set_malloc(_ARENA_MAX, number)


def _set_malloc(parameter: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (AttributeError, OSError):  # another C library
        return False
