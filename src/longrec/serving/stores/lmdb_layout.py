"""Keys and values of an LMDB store.

    table    key                                       value
    meta     "meta"                                    JSON
             "born"                                    the last `born` given, u64
    users    user                                      born, u64
    log      born, number of the event: u64 each       time i64, length of the event id u16 (65,535:
                                                       none), event id, item
    ids      born u64, event id                        nothing
    records  digest, born u64                          the record
    seen     digest, born u64, page u32                bits of 8,192 items, trailing zeros cut

Numbers in keys are big-endian, so that LMDB's order is theirs; those in values little-endian. The
last number of a log stands nowhere but in its last key: it cannot disagree, and an event changes
one page less. An event changes one page of the bitmap only, however large the catalog is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from longrec.serving.stores.interface import Event

BORN = struct.Struct(">Q")
LOGGED = struct.Struct(">QQ")
PAGED = struct.Struct(">QI")
LAST = 2**64 - 1
ITEMS = 8192
"""Items per page of a bitmap."""

_VALUE = struct.Struct("<qH")
_NO_ID = 65535


class Tables(NamedTuple):
    """LMDB's handles of the tables."""

    meta: Any
    users: Any
    log: Any
    ids: Any
    records: Any
    seen: Any


def value_of(event: Event) -> bytes:
    """An event as its value in the log."""
    name = event.event_id
    if name is None:
        return _VALUE.pack(event.time, _NO_ID) + event.item
    return _VALUE.pack(event.time, len(name)) + name + event.item


def event_of(value: bytes) -> Event:
    """The event of a value in the log."""
    time, length = _VALUE.unpack_from(value)
    if length == _NO_ID:
        return Event(time, value[_VALUE.size :], None)
    split = _VALUE.size + length
    return Event(time, value[split:], value[_VALUE.size : split])


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


def load_meta(transaction: Any, meta: Any) -> dict[str, Any]:
    """What is kept of the store itself."""
    return dict(json.loads(bytes(transaction.get(b"meta", b"{}", db=meta))))


def save_meta(transaction: Any, meta: Any, kept: dict[str, Any]) -> None:
    """Keep that."""
    transaction.put(b"meta", json.dumps(kept).encode(), db=meta)


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
