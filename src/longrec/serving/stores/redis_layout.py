"""Keys and values of a Redis store, and the scripts that read and write them with what they take.

All keys begin with the store's prefix. A log has an id: a new one when it is rewritten, so that a
log can be built beside the old one.

    meta                    JSON, and its checksum
    born                    the last id given to a log
    users                   sorted set of users, all scores 0, to page through; it may have more
    user:USER               id and length of the user's log, and their checksum, in decimals
    log:LOG:N               events 64 N + 1 to 64 N + 64, each with its size and checksum before it
    id:LOG:EVENT_ID         of each event id in the log, a digest of the event
    record:DIGEST:LOG       the record
    pages:DIGEST:LOG        list of the bitmap's pages: a checksum, their numbers, u32 each
    seen:DIGEST:LOG:N       page N: a checksum, 8,192 bits
    digests                 set of digests that records were written of
    abandoned               there are logs of users who were forgotten and whose logs were not found
    old                     hash: LOG -> time, length and user, of logs being built or deleted
    done:SEQUENCE           number, time and answer of the last call of a sequence (numbered.lua)
    writes                  how many numbered calls have written (high_water.py)
    run                     the server's run that writes now, and `writes` when it began

The checksums are those of checks.py. Clients make them; where a script makes an event's number or a
bit part of one, it goes on by xor.

**A script writes with one command**, MSET or UNLINK. Several would stand in Redis's append-only
file as a transaction. If Redis dies while it writes one, its next start drops what was written of
it, but may leave that in the file, and the start after that carries it out: events would be there
twice. And what is one command shares one sync, however many users it is about; commands that are
sent together need not.

**A run of the server** (lua/begin_run.lua) begins when Redis is started, or a replica becomes the
master. What was read in another run may not be there any more, or be another event of the same
number; so a record, a bitmap or a rewritten log is written only in the run in which it was read.
Ids of logs then begin behind a gap: some may have been given that this server does not know of.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from longrec.serving.stores.checks import (
    EMPTY_PAGE,
    PAGE_BYTES,
    bit_check,
    event_check,
    event_digest,
    head_check,
    owner_check,
)
from longrec.serving.stores.encoding import (
    ID_AND_COLUMNS,
    LONGEST_ID,
    PAGE_ITEMS,
    pack_event,
    unpack_event,
)
from longrec.serving.stores.protocol import DAMAGED, HEADER, Append, Event

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
SCRIPTS = NUMBERED | {"read", "events", "users", "count", "erase", "unlist", "drop", "begin_run"}
ID_GAP = 2**20
"""Ids of logs that are left out when a run begins."""

_HEAD = struct.Struct("<II")


@cache
def load_scripts() -> dict[str, tuple[str, str]]:
    """Per script its SHA-1, by which Redis knows it, and its text.

    That is the constants it shares with Python, what all begin with, and its own.
    """
    constants = {
        "BLOCK_EVENTS": BLOCK_EVENTS,
        "PAGE_BYTES": PAGE_BYTES,
        "EMPTY_PAGE": EMPTY_PAGE,
        "ERASED_EVENTS": ERASED_EVENTS,
        "ID_GAP": ID_GAP,
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


def pack_head(user: bytes, log_id: int, length: int) -> bytes:
    """What stands of a user's log."""
    return b"%d %d %d" % (log_id, length, head_check(user, log_id, length))


def unpack_head(user: bytes, head: bytes) -> tuple[int, int] | None:
    """Id and length of a user's log; None where they are damaged."""
    try:
        log_id, length, _ = map(int, head.split(b" "))
    except ValueError:
        return None
    return (log_id, length) if pack_head(user, log_id, length) == head else None


def pack_for_block(user: bytes, event: Event, number: int = 0) -> bytes:
    """An event with its size and checksum before it, as events stand in a block.

    A script that appends it brings the number in.
    """
    packed = pack_event(event)
    return _HEAD.pack(len(packed), event_check(user, packed, number)) + packed


def unpack_block(user: bytes, block: bytes, first: int, count: int) -> list[Event]:
    """The `count` events of a block, whose first one has the number `first`.

    `DAMAGED` stands for those that are. Where a size is, the next event is looked for byte by byte:
    an event's checksum tells its number.
    """
    events, start, user_check = [DAMAGED] * count, 0, crc32(user)
    while start + _HEAD.size <= len(block):
        size, check = _HEAD.unpack_from(block, start)
        begin = start + _HEAD.size
        packed = block[begin : begin + size]
        place = (crc32(packed, user_check) ^ check) - first
        if len(packed) == size and 0 <= place < count:
            events[place] = unpack_event(packed)
            start = begin + size
        else:
            start += 1
    return events


def log_pairs(user: bytes, events: Sequence[Event], log_id: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys, without the prefix, and values of a whole log."""
    for start in range(0, len(events), BLOCK_EVENTS):
        some = enumerate(events[start : start + BLOCK_EVENTS], start + 1)
        block = b"".join([pack_for_block(user, event, number) for number, event in some])
        yield b"log:%d:%d" % (log_id, start // BLOCK_EVENTS), block
    for event in events:
        if event.event_id is not None:
            digest = event_digest(user, pack_event(event))
            yield b"id:%d:%b" % (log_id, event.event_id), digest


def append_arguments(digest: str, append: Append, log_id: int, new_id: int) -> list[Any]:
    """What append.lua is given of one, whose log was read under an id."""
    user = append.user
    events = [
        value
        for event in append.events
        for value in (
            b"-" if event.event_id is None else b"+" + event.event_id,
            pack_for_block(user, event),
        )
    ]
    items = [value for item in append.seen for value in (item, bit_check(item % PAGE_ITEMS))]
    return [
        *(user, crc32(user), log_id, append.last, pack_version(append.version), new_id),
        *(append.record or b"", owner_check(bytes.fromhex(digest), user)),
        *(len(append.events), len(append.seen), *events, *items),
    ]


def pack_version(version: int) -> bytes:
    """A record's version as it stands in its header."""
    return version.to_bytes(8, "little", signed=True)


def append_size(append: Append) -> tuple[int, int]:
    """Bytes that append.lua is given of one, about, and keys that it writes at most."""
    events = len(append.events)
    pages = len({item // PAGE_ITEMS for item in append.seen})
    size = len(append.record or b"") + 100 * events + sum(len(e.columns) for e in append.events)
    return size, events + events // BLOCK_EVENTS + pages + 6


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
