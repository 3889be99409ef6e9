"""Keys and values of a Redis store, and the scripts that read and write them with what they take.

All keys begin with the store's prefix. A log has an id: a new one when it is rewritten, so that a
log can be built beside the old one.

    meta                    JSON
    born                    the last id given to a log
    users                   sorted set of users, all scores 0, to page through; it may have more
    user:USER               id and length of the user's log, in decimals
    log:LOG:N               events 64 N + 1 to 64 N + 64, each with its size before it
    id:LOG:EVENT_ID         of each event id in the log, empty
    record:DIGEST:LOG       the record
    pages:DIGEST:LOG        numbers of the bitmap's pages, u32 each
    seen:DIGEST:LOG:N       page N: 8,192 bits
    digests                 set of digests that records were written of
    old                     hash: LOG -> time, length and user, of logs being built or deleted
    done:SEQUENCE           number, time and answer of the last call of a sequence (numbered.lua)
    run                     the server's run that was seen last (redis_settings.py)

**A script writes with one command**, MSET or UNLINK. Several would stand in Redis's append-only
file as a transaction. If Redis dies while it writes one, its next start drops what was written of
it, but may leave that in the file, and the start after that carries it out: events would be there
twice. And what is one command shares one sync, however many users it is about; commands that are
sent together need not.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from longrec.serving.stores.encoding import (
    ID_AND_COLUMNS,
    LONGEST_ID,
    PAGE_ITEMS,
    pack_event,
    unpack_event,
)
from longrec.serving.stores.protocol import HEADER, Append, Event

T = TypeVar("T")
BLOCK_EVENTS = 64
"""Events of a log in one value."""
ERASED_EVENTS = 2048
"""Events that one call of erase.lua deletes; whole blocks."""

CALL_BYTES = 2**23
"""Bytes that one script is given, about."""
CALL_KEYS = 3600
"""Keys that one script may write; Lua has room for no more than 3,990."""

NUMBERED = frozenset(("append", "put", "replace", "change_meta"))
"""Scripts that must be done once, also where their answer is lost."""
SCRIPTS = NUMBERED | {"read", "events", "users", "count", "erase", "unlist", "drop"}

_SIZE = struct.Struct("<I")


@cache
def load_scripts() -> dict[str, tuple[str, str]]:
    """Per script its SHA-1, by which Redis knows it, and its text.

    That is the constants it shares with Python, what all begin with, and its own.
    """
    constants = {
        "BLOCK_EVENTS": BLOCK_EVENTS,
        "PAGE_BYTES": PAGE_ITEMS // 8,
        "ERASED_EVENTS": ERASED_EVENTS,
        "ID_AND_COLUMNS": ID_AND_COLUMNS,
        "LONGEST_ID": LONGEST_ID,
        "HEADER_BYTES": HEADER.size,
        "VERSION_OFFSET": struct.calcsize("<4sI8sq"),  # where the version stands in a header
    }
    head = "".join(f"local {constant} = {value}\n" for constant, value in constants.items())
    folder, scripts = Path(__file__).with_name("lua"), {}
    for name in SCRIPTS:
        files = ["common", *(["numbered"] if name in NUMBERED else []), name]
        text = head + "".join((folder / f"{file}.lua").read_text() for file in files)
        scripts[name] = hashlib.sha1(text.encode()).hexdigest(), text
    return scripts


def pack_for_block(event: Event) -> bytes:
    """An event with its size before it, as events stand one after the other in a block."""
    packed = pack_event(event)
    return _SIZE.pack(len(packed)) + packed


def unpack_block(block: bytes) -> Iterator[Event]:
    """The events of a block."""
    start = 0
    while start < len(block):
        end = start + _SIZE.size + _SIZE.unpack_from(block, start)[0]
        yield unpack_event(block[start + _SIZE.size : end])
        start = end


def log_pairs(events: Sequence[Event], log_id: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys, without the prefix, and values of a whole log."""
    for start in range(0, len(events), BLOCK_EVENTS):
        block = b"".join(map(pack_for_block, events[start : start + BLOCK_EVENTS]))
        yield b"log:%d:%d" % (log_id, start // BLOCK_EVENTS), block
    for event in events:
        if event.event_id is not None:
            yield b"id:%d:%b" % (log_id, event.event_id), b""


def append_arguments(append: Append, new_id: int) -> list[Any]:
    """What append.lua is given of one."""
    events = [
        value
        for event in append.events
        for value in (
            b"-" if event.event_id is None else b"+" + event.event_id,
            pack_for_block(event),
        )
    ]
    return [
        *(append.user, append.log_id, append.last, append.version.to_bytes(8, "little"), new_id),
        *(append.record or b"", len(append.events), len(append.seen), *events, *append.seen),
    ]


def append_size(append: Append) -> tuple[int, int]:
    """Bytes that append.lua is given of one, about, and keys that it writes at most."""
    events = len(append.events)
    pages = len({item // PAGE_ITEMS for item in append.seen})
    size = len(append.record or b"") + 100 * events + sum(len(e.columns) for e in append.events)
    return size, events + events // BLOCK_EVENTS + pages + 5


def in_parts(calls: Iterable[tuple[T, int, int]]) -> Iterator[list[T]]:
    """Calls put together as one script takes them; each with its bytes and count of keys."""
    part: list[T] = []
    part_size = part_keys = 0
    for call, size, keys in calls:
        if part and (part_size + size > CALL_BYTES or part_keys + keys > CALL_KEYS):
            yield part
            part, part_size, part_keys = [], 0, 0
        part.append(call)
        part_size, part_keys = part_size + size, part_keys + keys
    if part:
        yield part
