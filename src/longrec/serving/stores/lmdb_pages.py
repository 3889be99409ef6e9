"""LMDB's pages read without LMDB, which ends the process where a page is not what it expects.

A table is a tree of pages. What follows is LMDB's format of versions 0.9 (mdb.c there):

    page   number u64, - u16, kind u16, end of the places of its nodes u16, begin of its nodes u16,
           places u16 each; a value of several pages has their count u32 instead of the last three
    node   size of the value u32, kind u16, size of the key u16, key, value; or, of a branch, the
           number of the page below, of 48 bits in place of the first two

Every page is checked before anything is taken from it: its number and kind, that its nodes lie one
after the other without a gap, and that keys are in order and between those of the branch above. A
page that is damaged is noted and passed over, with all that is below it.

Within a transaction of LMDB's nobody writes to the pages that its tables had when it began.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

import lmdb

BRANCH, LEAF, OVERFLOW = 1, 2, 4
HEAD = 16
_PAGE = struct.Struct("<QHHHH")
_COUNT = struct.Struct("<QHHI")
_NODE = struct.Struct("<HHHH")
_TABLE = struct.Struct("<IHHQQQQQ")
_META = struct.Struct("<IIQQ48s48sQQ")
_MAGIC = 0xBEEFC0DE
_ELSEWHERE, _TABLE_ROOT = 1, 2
"""Of a leaf's node: its value is a page's number; it is where a table begins."""
NOTHING = 2**64 - 1
"""The root of an empty table."""
DEEPEST = 32


class Root(NamedTuple):
    """Where a table begins: its uppermost page, its depth, its counts of pages and of keys, and its
    kind, which is 0."""

    page: int
    depth: int
    branches: int
    leaves: int
    overflows: int
    keys: int
    kind: int


class Meta(NamedTuple):
    """What LMDB keeps of a whole file, in two pages of which the later one counts.

    free : the table of pages that are not used; main : that of the tables, by name.
    """

    free: Root
    main: Root
    last_page: int
    transaction: int


class Broken(NamedTuple):
    """A page that is damaged, and how, in words; whether the file ends before it."""

    page: int
    words: str
    is_missing: bool = False


class PageDamaged(Exception):
    """A page is not what it should be."""


class Pages:
    """The pages of an open file.

    Parameters
    ----------
    file : descriptor, of which nothing but `pread` is asked.
    size : bytes of a page.
    integers : keys are integers in the machine's order of bytes, as in the list of free pages.

    Attributes
    ----------
    broken : pages found damaged since it was made.
    used : None, or where to note the numbers of the pages that were read.
    """

    def __init__(self, file: int, size: int, integers: bool = False) -> None:
        self._file, self.size, self._turn = file, size, -1 if integers else 1
        self._kinds: tuple[int, ...] = (0, _ELSEWHERE)
        self.broken: list[Broken] = []
        self.used: list[int] | None = None

    def meta(self, transaction: int) -> Meta | None:
        """What the file has of itself as of a transaction; None where that is not there."""
        for number in (0, 1):
            page = os.pread(self._file, HEAD + _META.size, number * self.size)
            if len(page) == HEAD + _META.size:
                magic, _, _, _, free, main, last, found = _META.unpack_from(page, HEAD)
                if (magic, found) == (_MAGIC, transaction):
                    # In the first one's kind stand page size and options of the whole file.
                    return Meta(root_of(free)._replace(kind=0), root_of(main), last, found)
        return None

    def root(self, transaction: lmdb.Transaction[Any], name: str) -> Root:
        """That of a table, as a transaction saw it when it began."""
        found = transaction.get(name.encode())
        if found is None or len(found) != _TABLE.size:
            self.broken.append(Broken(0, f"it does not say where the table {name} begins"))
            return Root(NOTHING, 0, 0, 0, 0, 0, 0)
        return root_of(bytes(found))

    def tables(self, main: Root) -> list[tuple[bytes, Root]]:
        """The names of all tables, and where they begin."""
        self._kinds = (_TABLE_ROOT,)
        found = [(name, root_of(packed)) for name, packed in self.pairs(main)]
        self._kinds = (0, _ELSEWHERE)
        return found

    def pairs(self, root: Root, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys from `start` on, in order, with their values."""
        for key, value in self._nodes(root, start):
            try:
                yield key, value if isinstance(value, bytes) else self._overflow(*value)
            except PageDamaged:
                continue

    def keys(self, root: Root, start: bytes = b"") -> Iterator[bytes]:
        """Keys from `start` on, in order, whether their values can be read or not."""
        return (key for key, _ in self._nodes(root, start))

    def beginning(self, root: Root, prefix: bytes) -> Iterator[bytes]:
        """Keys that begin so, in order."""
        for key in self.keys(root, prefix):
            if not key.startswith(prefix):
                return
            yield key

    def is_whole_around(self, root: Root, first: bytes, last: bytes) -> bool:
        """Whether the pages that LMDB may look at when it deletes keys from `first` to `last` are.

        These are the pages where they stand, and beside them those that they may be merged with:
        it merges pages of which less than a quarter is used.
        """
        before = len(self.broken)
        if root.page != NOTHING:
            self._look_around(root.page, first, last, min(root.depth, DEEPEST))
        return len(self.broken) == before

    def _look_around(self, number: int, first: bytes, last: bytes, depth: int) -> None:
        """Check a page, and below it those from `first` to `last` and beside them."""
        try:
            if depth == 1:
                self._leaf(number, b"", None)
                return
            keys, below = self._branch(number, b"", None)
        except PageDamaged:
            return
        begin, end = bisect_right(keys, first) - 1, bisect_right(keys, last)
        for place in range(max(0, begin), end):
            self._look_around(below[place], first, last, depth - 1)
        for beside in (range(begin - 1, -1, -1), range(end, len(keys))):
            for place in beside:
                if not self._may_be_merged(below[place], depth - 1):
                    break

    def _may_be_merged(self, number: int, depth: int) -> bool:
        """Whether a page, which is checked, is so empty that LMDB may look at the next one, too."""
        try:
            keys, _ = (self._leaf if depth == 1 else self._branch)(number, b"", None)
            page, places = self._page(number, LEAF if depth == 1 else BRANCH)
        except PageDamaged:
            return False
        used = len(page) - min(places) + 2 * len(places)
        return used < len(page) // 2 if depth == 1 else len(keys) < 4

    def _nodes(self, root: Root, start: bytes) -> Iterator[tuple[bytes, bytes | tuple[int, int]]]:
        if root.page != NOTHING:
            yield from self._below(root.page, start, b"", None, min(root.depth, DEEPEST))

    def _below(
        self, number: int, start: bytes, low: bytes, high: bytes | None, depth: int
    ) -> Iterator[tuple[bytes, bytes | tuple[int, int]]]:
        """Nodes of the leaves at or under a page whose keys lie from `low` to before `high`."""
        try:
            if depth > 1:
                keys, values = self._branch(number, low, high)
            else:
                keys, values = self._leaf(number, low, high)
        except PageDamaged:
            return
        if depth == 1:
            for place in range(len(keys)):
                if keys[place] >= start:
                    yield keys[place], values[place]
            return
        ends = [*keys[1:], high]
        for place in range(max(0, bisect_right(keys, start) - 1), len(keys)):
            yield from self._below(values[place], start, keys[place], ends[place], depth - 1)

    def _branch(self, number: int, low: bytes, high: bytes | None) -> tuple[list[bytes], list[Any]]:
        page, places = self._page(number, BRANCH)
        keys, below, areas = [], [], []
        for count, place in enumerate(places):
            first, second, third, length = self._head(number, page, place)
            key = page[place + _NODE.size : place + _NODE.size + length][:: self._turn]
            keys.append(key if count else low)  # the first one has none of its own
            below.append(first | second << 16 | third << 32)
            areas.append((place, _NODE.size + length))
        self._check(number, page, areas, keys, low, high)
        return keys, below

    def _leaf(self, number: int, low: bytes, high: bytes | None) -> tuple[list[bytes], list[Any]]:
        page, places = self._page(number, LEAF)
        keys, values, areas = [], list[Any](), []
        for place in places:
            first, second, kind, length = self._head(number, page, place)
            size, begin = first | second << 16, place + _NODE.size + length
            stored = 8 if kind == _ELSEWHERE else size
            if kind not in self._kinds or begin + stored > len(page):
                self._note(number, "a node is of no kind, or too long")
            keys.append(page[place + _NODE.size : begin][:: self._turn])
            value = page[begin : begin + stored]
            values.append((int.from_bytes(value, "little"), size) if kind == _ELSEWHERE else value)
            areas.append((place, _NODE.size + length + stored))
        self._check(number, page, areas, keys, low, high)
        return keys, values

    def _page(self, number: int, kind: int) -> tuple[bytes, tuple[int, ...]]:
        """A page and the places of its nodes."""
        page = os.pread(self._file, self.size, number * self.size) if number < 2**48 else b""
        if len(page) < self.size:
            self._note(number, "it is beyond the end of the file", True)
        found, _, flags, lower, upper = _PAGE.unpack_from(page)
        if found != number or flags != kind:
            self._note(number, "it has another number, or is of another kind")
        if lower % 2 or not HEAD < lower <= upper <= self.size:
            self._note(number, "its beginning is damaged")
        if self.used is not None:
            self.used.append(number)
        return page, struct.unpack_from(f"<{(lower - HEAD) // 2}H", page, HEAD)

    def _head(self, number: int, page: bytes, place: int) -> tuple[int, int, int, int]:
        if place + _NODE.size > len(page):
            self._note(number, "a node is outside of it")
        head: tuple[int, int, int, int] = _NODE.unpack_from(page, place)
        return head

    def _check(
        self,
        number: int,
        page: bytes,
        areas: list[tuple[int, int]],
        keys: list[bytes],
        low: bytes,
        high: bytes | None,
    ) -> None:
        """See that nodes fill the page from where they begin, and that keys are in order."""
        _, _, _, _, end = _PAGE.unpack_from(page)
        for place, size in sorted(areas):
            if place != end:
                self._note(number, "its nodes do not lie one after the other")
            end += size + size % 2
        if end != len(page):
            self._note(number, "its nodes do not lie one after the other")
        if keys[0] < low or (high is not None and keys[-1] >= high):
            self._note(number, "its keys do not belong to it")
        if any(keys[place] >= keys[place + 1] for place in range(len(keys) - 1)):
            self._note(number, "its keys are not in order")

    def _overflow(self, number: int, size: int) -> bytes:
        """A value that has pages of its own."""
        count = -(-(HEAD + size) // self.size)
        page = b""
        if number < 2**48 and count < 2**20:
            page = os.pread(self._file, count * self.size, number * self.size)
        if len(page) < count * self.size or not count:
            self._note(number, "a value goes beyond the end of the file", True)
        found, _, flags, pages = _COUNT.unpack_from(page)
        if (found, flags, pages) != (number, OVERFLOW, count):
            self._note(number, "it is not the beginning of a value of several pages")
        if self.used is not None:
            self.used += range(number, number + count)
        return page[HEAD : HEAD + size]

    def _note(self, number: int, words: str, is_missing: bool = False) -> None:
        self.broken.append(Broken(number, words, is_missing))
        raise PageDamaged


def root_of(packed: bytes) -> Root:
    """A table's root as LMDB keeps it."""
    low, high, depth, *counts, page = _TABLE.unpack(packed.ljust(_TABLE.size))
    branches, leaves, overflows, keys = counts
    return Root(page, depth, branches, leaves, overflows, keys, low | high << 32)
