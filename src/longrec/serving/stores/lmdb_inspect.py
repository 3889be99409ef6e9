"""The pages of an LMDB file held against each other: what checksums of values cannot tell."""

from __future__ import annotations

import struct
from itertools import pairwise

from longrec.serving.stores.lmdb_pages import Meta, Pages, Root
from longrec.serving.stores.protocol import StoreDamaged

FREE_DAMAGED = "the list of free pages is damaged"


def inspect(descriptor: int, size: int, transaction: int) -> list[str]:
    """What is wrong with the pages of a file, as of a transaction that is being read.

    Every page is in one table or free, each table has as many keys as it says, and no page is
    damaged.

    Parameters
    ----------
    descriptor, size : of the file, and of a page of it in bytes.
    transaction : the number of the last one.
    """
    pages = Pages(descriptor, size)
    meta = pages.meta(transaction)
    if meta is None:
        return ["neither of the two pages that begin the file is of its last transaction"]
    found, names = list[str](), ["none", "the file's beginning"]
    taken = bytearray(meta.last_page + 1)  # per page the place of its table in `names`
    taken[:2] = b"\1\1"

    def note(table: Pages, name: str, root: Root, keys: int) -> None:
        """Note whose pages those are that were read of a table."""
        found.extend(f"page {one.page:,} of {name} is damaged: {one.words}" for one in table.broken)
        says = root.keys, root.branches + root.leaves + root.overflows, 0
        if not table.broken and says != (keys, len(table.used or ()), root.kind):
            found.append(
                f"{name} says that it has {says[0]:,} keys on {says[1]:,} pages, and has {keys:,} "
                f"on {len(table.used or ()):,}, or says that it is of another kind"
            )
        names.append(name)
        for number in table.used or ():
            if number > meta.last_page or taken[number]:
                other = "beyond the last one" if number > meta.last_page else names[taken[number]]
                found.append(f"page {number:,} of {name} is {other}, too")
            else:
                taken[number] = len(names) - 1

    main = Pages(descriptor, size)
    main.used = []
    tables = main.tables(meta.main)
    note(main, "the list of tables", meta.main, len(tables))
    for label, root in tables:
        table = Pages(descriptor, size)
        table.used = []
        note(table, f"the table {label.decode(errors='replace')}", root, _count(table, root))
    free = Pages(descriptor, size, integers=True)
    free.used = []
    lists = list(free.pairs(meta.free))
    note(free, "the list of free pages", meta.free, len(lists))
    if found:
        return found
    numbers = _free_pages(lists, meta)
    if numbers is None:
        return [FREE_DAMAGED]
    if (number := next((number for number in numbers if taken[number]), None)) is not None:
        return [f"page {number:,} of {names[taken[number]]} is said to be free"]
    if len(numbers) != taken.count(0):
        return ["some pages are neither in a table nor free"]
    return []


def check_free(descriptor: int, size: int, transaction: int) -> None:
    """See that the list of free pages can be read: LMDB writes to the pages that it names.

    Raises
    ------
    StoreDamaged
    """
    pages = Pages(descriptor, size, integers=True)
    meta = pages.meta(transaction)
    lists = [] if meta is None else list(pages.pairs(meta.free))
    if meta is None or pages.broken or _free_pages(lists, meta) is None:
        raise StoreDamaged(
            f"{FREE_DAMAGED}: nothing can be written to the store. Back it up, which needs no such "
            "list, and restore that into an empty store"
        )


def free_bytes(descriptor: int, size: int, transaction: int) -> int:
    """Bytes of a file's pages that the next write may take: free since before the last transaction.

    0 where that cannot be read. Parameters as of `inspect`.
    """
    pages = Pages(descriptor, size, integers=True)
    meta = pages.meta(transaction)
    freed = 0
    for since, value in () if meta is None else pages.pairs(meta.free):
        if int.from_bytes(since, "big") < transaction:
            freed += int.from_bytes(value[:8], "little")
    return 0 if pages.broken else freed * size


def _count(table: Pages, root: Root) -> int:
    return sum(1 for _ in table.pairs(root))


def _free_pages(lists: list[tuple[bytes, bytes]], meta: Meta) -> set[int] | None:
    """The pages that are said to be free; None where what says so is damaged."""
    free: set[int] = set()
    for _, value in lists:
        count = int.from_bytes(value[:8], "little")
        numbers = struct.unpack_from(f"<{max(len(value) // 8, 1) - 1}Q", value.ljust(8), 8)[:count]
        if count != len(numbers) or any(a <= b for a, b in pairwise(numbers)):
            return None
        if not free.isdisjoint(numbers) or any(not 1 < n <= meta.last_page for n in numbers):
            return None
        free.update(numbers)
    return free
