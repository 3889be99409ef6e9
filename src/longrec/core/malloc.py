"""How this process keeps memory that tensors free, where the C library lets it be told (glibc).

By itself glibc gives large freed blocks back to the system and fetches them again, page by page, at
each step of a training; what it gives back and what it keeps depends on what was freed before.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Their numbers in glibc's malloc.h."""
PAGES = 1 << 16
"""Bytes of blocks that are given back at once, where they are."""


def keep_freed_memory() -> bool:
    """Keep it: steps find their pages again. Says whether the process could be told so.

    What the process used at most it then holds until it ends.
    """
    return _set(MMAP_THRESHOLD, 1 << 30) and _set(TRIM_THRESHOLD, (1 << 31) - 1)


def give_back_freed_memory() -> bool:
    """Give it back at once: what is resident is what is in use. Says whether that could be told."""
    return _set(MMAP_THRESHOLD, PAGES) and _set(TRIM_THRESHOLD, PAGES)


def _set(parameter: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (AttributeError, OSError):  # another C library
        return False
