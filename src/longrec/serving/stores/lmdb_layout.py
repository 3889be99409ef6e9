"""Keys and values of an LMDB store.

    table    key                                       value
    meta     "meta"                                    JSON
             "born"                                    the last `born` given, u64
    users    user                                      born, u64
    log      born, number of the event: u64 each       time i64, length of the event id u16 (65,535:
                                                       none), event id, item
    ids      born u64, event id                        nothing
    records  digest, born u64                          the record
    seen     digest, born u64, page u32                a page of the bitmap (bitmap.py)

Numbers in keys are big-endian, so that LMDB's order is theirs; those in values little-endian. The
last number of a log stands nowhere but in its last key: it cannot disagree, and an event changes
one page less. An event changes one page of the bitmap only, however large the catalog is.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

from longrec.serving.stores.protocol import Event

BORN = struct.Struct(">Q")
LOGGED = struct.Struct(">QQ")
PAGED = struct.Struct(">QI")
LAST = 2**64 - 1

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


def load_meta(transaction: Any, meta: Any) -> dict[str, Any]:
    """What is kept of the store itself."""
    return dict(json.loads(bytes(transaction.get(b"meta", b"{}", db=meta))))


def save_meta(transaction: Any, meta: Any, kept: dict[str, Any]) -> None:
    """Keep that."""
    transaction.put(b"meta", json.dumps(kept).encode(), db=meta)
