"""Events and bitmaps as they stand in a Redis store (keys: redis_scripts.py)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from longrec.serving.stores.lmdb_layout import event_of, value_of
from longrec.serving.stores.protocol import Event
from longrec.serving.stores.redis_scripts import BLOCK, PAGE

_LENGTH = struct.Struct("<I")


def pack_event(event: Event) -> bytes:
    """An event, with its length before it: they stand one after the other in a block."""
    value = value_of(event)
    return _LENGTH.pack(len(value)) + value


def unpack_block(block: bytes) -> Iterator[Event]:
    """The events of a block."""
    at = 0
    while at < len(block):
        end = at + _LENGTH.size + _LENGTH.unpack_from(block, at)[0]
        yield event_of(block[at + _LENGTH.size : end])
        at = end


def keys_of(events: Sequence[Event], born: int, first: int) -> list[tuple[bytes, bytes]]:
    """Keys, less the prefix, and values of a log's events from index `first`, a block's first."""
    pairs = []
    for start in range(0, len(events), BLOCK):
        block = b"".join(map(pack_event, events[start : start + BLOCK]))
        pairs.append((b"log:%d:%d" % (born, (first + start) // BLOCK), block))
    names = [event.event_id for event in events if event.event_id is not None]
    return pairs + [(b"id:%d:" % born + name, b"") for name in names]


def split_bitmap(bitmap: bytes) -> tuple[bytes, list[bytes]]:
    """Numbers and contents of the pages of a bitmap that have bits."""
    numbers, pages = [], []
    for start in range(0, len(bitmap), PAGE):
        page = bitmap[start : start + PAGE].rstrip(b"\0")
        if page:
            numbers.append(start // PAGE)
            pages.append(page)
    return struct.pack(f"<{len(numbers)}I", *numbers), pages


def join_bitmap(numbers: bytes, pages: Sequence[bytes]) -> bytes:
    """The bitmap of its pages."""
    whole = bytearray()
    order = struct.unpack(f"<{len(numbers) // 4}I", numbers)
    for number, page in sorted(zip(order, pages, strict=True)):
        whole.extend(bytes(number * PAGE - len(whole)))
        whole.extend(page)
    return bytes(whole)
