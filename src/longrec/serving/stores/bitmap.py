"""Bitmaps of item indices, kept in pages: an event changes one, however large the catalog is."""

from __future__ import annotations

from collections.abc import Iterable

ITEMS = 8192
"""Items per page of a bitmap."""


def pages_of(indices: Iterable[int]) -> dict[int, list[int]]:
    """Per page of the bitmap the places of some items in it."""
    pages: dict[int, list[int]] = {}
    for index in indices:
        pages.setdefault(index // ITEMS, []).append(index % ITEMS)
    return pages


def with_bits(page: bytes, places: Iterable[int]) -> bytes:
    """A page of the bitmap with bits added."""
    bits = bytearray(page)
    for place in places:
        at = place >> 3
        if at >= len(bits):
            bits.extend(bytes(at + 1 - len(bits)))
        bits[at] |= 1 << (place & 7)
    return bytes(bits)


def split(bitmap: bytes) -> Iterable[tuple[int, bytes]]:
    """The pages of a bitmap that have bits."""
    size = ITEMS // 8
    for page in range(-(-len(bitmap) // size)):
        bits = bitmap[page * size : (page + 1) * size].rstrip(b"\0")
        if bits:
            yield page, bits


def join(pages: Iterable[tuple[int, bytes]]) -> bytes:
    """The bitmap of its pages, in order."""
    whole = bytearray()
    for page, bits in pages:
        whole.extend(bytes(page * (ITEMS // 8) - len(whole)))
        whole.extend(bits)
    return bytes(whole)
