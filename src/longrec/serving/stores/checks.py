"""Checksums of all that a store keeps, which tell damage and what stands at another's place.

    record     crc32 of the user and the record, in its last bytes (`seal`)
    event      crc32 of the user and the event as packed, xor its number in the log
    user       crc32 of the user, xor id and length of the log (`head_check`)
    page       of a bitmap: crc32 of its bits, padded with zeros, xor the owner's and its number
    page list  the numbers of these pages: all of them xor the owner's
    meta       crc32 of the JSON, in hexadecimal digits on a line of its own

crc32 finds every flipped bit, and every stretch of damage of up to 32 bits. Where a value changes
bit by bit, or in a script of Redis, which has no crc32, its checksum goes on by xor: of bits that
are set in a page of a fixed size, crc32 is the xor of what each gives. Damage stays to be seen
then, since what did not fit before does not fit after.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any
from zlib import crc32

from longrec.serving.stores.encoding import PAGE_ITEMS, join_bitmap, split_bitmap

CHECK = struct.Struct("<I")
SEAL = struct.Struct("<Q")
"""The last bytes of a record."""
CHECKED = 3
"""The first schema with checksums."""
PAGE_BYTES = PAGE_ITEMS // 8
EMPTY_PAGE = crc32(bytes(PAGE_BYTES))


def seal(user: bytes, record: bytes) -> bytes:
    """A user's record with its checksum in place of its last bytes."""
    body = record[: -SEAL.size]
    return body + SEAL.pack(crc32(body, crc32(user)))


def is_sealed(user: bytes, record: bytes) -> bool:
    """Whether a record is as it was sealed, and this user's."""
    check = crc32(memoryview(record)[: -SEAL.size], crc32(user))
    return record[-SEAL.size :] == SEAL.pack(check)


def pack_meta(meta: dict[str, Any]) -> bytes:
    """What is kept of a store itself, as it is stored."""
    text = json.dumps(meta).encode()
    return b"%b\n%08x" % (text, crc32(text))


def unpack_meta(packed: bytes) -> dict[str, Any] | None:
    """What `pack_meta` or an earlier longrec, which gave it no checksum, made; None: damaged."""
    text, line, check = packed.partition(b"\n")
    if line and check != b"%08x" % crc32(text):
        return None
    try:
        meta = json.loads(text)
    except ValueError:
        return None
    if not isinstance(meta, dict) or (not line and meta.get("schema", 1) >= CHECKED):
        return None
    return meta


def event_check(user: bytes, packed: bytes, number: int) -> int:
    """The checksum of the event `number` of a user's log."""
    return crc32(packed, crc32(user)) ^ (number & 0xFFFFFFFF)


def event_digest(user: bytes, packed: bytes) -> bytes:
    """What tells an event as packed from another one with the same id."""
    return CHECK.pack(event_check(user, packed, 0))


def head_check(user: bytes, log_id: int, last: int) -> int:
    """The checksum of id and length of a user's log."""
    return crc32(user) ^ _turned(_folded(log_id)) ^ _folded(last)


def owner_check(model: bytes, user: bytes) -> int:
    """What goes into all checksums of a user's bitmap for the model of this digest."""
    return crc32(user, crc32(model))


@lru_cache(PAGE_ITEMS)
def bit_check(bit: int) -> int:
    """What a bit that is set adds to the checksum of its page by xor."""
    page = bytearray(PAGE_BYTES)
    page[bit >> 3] = 1 << (bit & 7)
    return crc32(page) ^ EMPTY_PAGE


def pack_pages(owner: int, bitmap: bytes) -> tuple[bytes, dict[int, bytes]]:
    """A bitmap as it is stored: the list of its pages, and the pages by their numbers."""
    pages = {
        number: CHECK.pack(crc32(bits.ljust(PAGE_BYTES, b"\0")) ^ owner ^ number) + bits
        for number, bits in split_bitmap(bitmap).items()
    }
    return pack_list(owner, pages), pages


def pack_list(owner: int, numbers: Iterable[int]) -> bytes:
    """The list of a bitmap's pages."""
    numbers, check = list(numbers), owner
    for number in numbers:
        check ^= number + 1
    return struct.pack(f"<I{len(numbers)}I", check, *numbers)


def unpack_list(owner: int, packed: bytes | None) -> list[int] | None:
    """The numbers of a bitmap's pages; None where their list is damaged."""
    if packed is None:
        return []
    if len(packed) % 4 or not packed:
        return None
    check, *numbers = struct.unpack(f"<{len(packed) // 4}I", packed)
    for number in numbers:
        check ^= number + 1
    return numbers if check == owner else None


def unpack_pages(
    owner: int, packed: bytes | None, page_of: Callable[[int], bytes | None]
) -> bytes | None:
    """The bitmap of the pages of a list, which `page_of` gives; None where any is damaged."""
    numbers, pages = unpack_list(owner, packed), []
    if numbers is None:
        return None
    for number in numbers:
        page = page_of(number) or b""
        bits = page[CHECK.size :]
        found = CHECK.pack(crc32(bits.ljust(PAGE_BYTES, b"\0")) ^ owner ^ number)
        if len(bits) > PAGE_BYTES or page[: CHECK.size] != found:
            return None
        pages.append((number, bits))
    return join_bitmap(pages)


def add_bits(owner: int, number: int, page: bytes, bits: Iterable[int]) -> bytes:
    """A stored page, b"" for a new one, with bits added; its checksum goes on from what it was."""
    check, content = EMPTY_PAGE ^ owner ^ number, bytearray(page[CHECK.size :])
    if page:
        [check] = CHECK.unpack(page[: CHECK.size].ljust(CHECK.size, b"\0"))
    for bit in bits:
        byte, mask = bit >> 3, 1 << (bit & 7)
        if byte >= len(content):
            content.extend(bytes(byte + 1 - len(content)))
        if not content[byte] & mask:
            content[byte] |= mask
            check ^= bit_check(bit)
    return CHECK.pack(check) + bytes(content)


def bits_by_page(indices: Iterable[int]) -> dict[int, list[int]]:
    """Per page of the bitmap the bits of some items in it."""
    pages: dict[int, list[int]] = {}
    for index in indices:
        pages.setdefault(index // PAGE_ITEMS, []).append(index % PAGE_ITEMS)
    return pages


def _folded(number: int) -> int:
    return (number ^ number >> 32) & 0xFFFFFFFF


def _turned(number: int) -> int:
    """By half of its 32 bits, lest damage of the id of a log and of its length cancel out."""
    return (number << 16 | number >> 16) & 0xFFFFFFFF
