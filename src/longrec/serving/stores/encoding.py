"""Events as bytes, and bitmaps of item indices in pages, the same in every store.

Of a bitmap an event changes one page, however large the catalog is. The checksums of both are in
checks.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from longrec.core.errors import DataError
from longrec.serving.stores.protocol import Event

PAGE_ITEMS = 8192
"""Items per page of a bitmap."""

_HEAD = struct.Struct("<qH")
_NO_ID = 65535
_WITH_COLUMNS = struct.Struct("<qHBH")
ID_AND_COLUMNS, _COLUMNS = 65534, 65533
"""In place of the length of the event id: columns follow, of an event with an id or without."""
LONGEST_ID = 65000
"""What is greater stands for what follows, and what is not known there is not guessed."""


def pack_event(event: Event) -> bytes:
    """Time i64, length of the event id u16 (65,535: it has none), event id, item.

    With further columns: time, 65,534 (65,533: it has no id), length of the id u8, of the columns
    u16, columns, event id, item.
    """
    name = event.event_id
    if event.columns:
        mark = _COLUMNS if name is None else ID_AND_COLUMNS
        name = name or b""
        head = _WITH_COLUMNS.pack(event.time, mark, len(name), len(event.columns))
        return head + event.columns + name + event.item
    if name is None:
        return _HEAD.pack(event.time, _NO_ID) + event.item
    return _HEAD.pack(event.time, len(name)) + name + event.item


def unpack_event(value: bytes) -> Event:
    """The event of which `pack_event` made these bytes.

    Raises
    ------
    DataError
        When a newer longrec made them, of an event with what this one does not know.
    """
    time, length = _HEAD.unpack_from(value)
    if length == _NO_ID:
        return Event(time, value[_HEAD.size :], None)
    if length <= LONGEST_ID:
        split = _HEAD.size + length
        return Event(time, value[split:], value[_HEAD.size : split])
    if length not in (ID_AND_COLUMNS, _COLUMNS):
        raise DataError(
            f"a logged event is of kind {length}, which this longrec does not know: a newer one "
            "wrote it; upgrade longrec"
        )
    _, _, of_name, of_columns = _WITH_COLUMNS.unpack_from(value)
    name_at = _WITH_COLUMNS.size + of_columns
    name, item = value[name_at : name_at + of_name], value[name_at + of_name :]
    columns = value[_WITH_COLUMNS.size : name_at]
    return Event(time, item, None if length == _COLUMNS else name, columns)


def split_bitmap(bitmap: bytes) -> dict[int, bytes]:
    """The pages of a bitmap that have bits, by their numbers."""
    size = PAGE_ITEMS // 8
    pages = (
        (start // size, bitmap[start : start + size].rstrip(b"\0"))
        for start in range(0, len(bitmap), size)
    )
    return {number: bits for number, bits in pages if bits}


def join_bitmap(pages: Iterable[tuple[int, bytes]]) -> bytes:
    """The bitmap of its pages, each with its number."""
    whole = bytearray()
    for number, bits in sorted(pages):
        whole.extend(bytes(number * (PAGE_ITEMS // 8) - len(whole)))
        whole.extend(bits)
    return bytes(whole)
