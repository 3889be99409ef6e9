"""What is done to the tables of an LMDB store within a transaction (keys: lmdb_layout.py)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import lmdb

from longrec.serving.stores.bitmap import join, pages_of, with_bits
from longrec.serving.stores.lmdb_layout import (
    BORN,
    LAST,
    LOGGED,
    PAGED,
    Tables,
    value_of,
)
from longrec.serving.stores.protocol import Append, Appended, Event, version_of


def log_append(
    transaction: lmdb.Transaction[memoryview], tables: Tables, model: bytes, append: Append
) -> Appended:
    """Log events, and write record and bitmap if these are made from what is stored."""
    born = born_of(transaction, tables, append.user)
    last, current = 0, append.born == born
    if born:
        last = last_of(transaction.cursor(tables.log), born)
    else:  # new, or forgotten since it was read
        born = be_born(transaction, tables, append.user)
    key = model + BORN.pack(born)
    current = (
        current
        and append.record is not None
        and append.last == last
        and append.version == version_of(transaction.get(key, db=tables.records))
    )
    new, last = log_events(transaction, tables, born, last, append.events)
    if not current or append.record is None or not all(new):
        return Appended(new, last, False)
    transaction.put(key, append.record, db=tables.records)
    for page, places in pages_of(append.seen).items():
        at = model + PAGED.pack(born, page)
        before = bytes(transaction.get(at, b"", db=tables.seen))
        bits = with_bits(before, places)
        if bits != before:
            transaction.put(at, bits, db=tables.seen)
    return Appended(new, last, True)


def log_events(
    transaction: lmdb.Transaction[memoryview],
    tables: Tables,
    born: int,
    last: int,
    events: Sequence[Event],
) -> tuple[tuple[bool, ...], int]:
    """Log those of the events that are new; -> which they are, and the log's last number now."""
    new, prefix = [], BORN.pack(born)
    for event in events:
        name = event.event_id
        fresh = name is None or transaction.put(prefix + name, b"", overwrite=False, db=tables.ids)
        if fresh:
            last += 1
            transaction.put(LOGGED.pack(born, last), value_of(event), db=tables.log)
        new.append(fresh)
    return tuple(new), last


def born_of(transaction: lmdb.Transaction[Any], tables: Tables, user: bytes) -> int:
    """The number of a user's log; 0 if there is no such user."""
    found = transaction.get(user, db=tables.users)
    return BORN.unpack(found)[0] if found is not None else 0


def be_born(transaction: lmdb.Transaction[memoryview], tables: Tables, user: bytes) -> int:
    """Give a user a log, with a number that no log had before."""
    before = transaction.get(b"born", db=tables.meta)
    born: int = (BORN.unpack(before)[0] if before is not None else 0) + 1
    transaction.put(b"born", BORN.pack(born), db=tables.meta)
    transaction.put(user, BORN.pack(born), db=tables.users)
    return born


def last_of(log: lmdb.Cursor[Any], born: int) -> int:
    """The number of the last event in a log."""
    found = log.prev() if log.set_range(LOGGED.pack(born, LAST)) else log.last()
    owner, number = LOGGED.unpack(log.key()) if found else (0, 0)
    return number if owner == born else 0


def bitmap_of(seen: lmdb.Cursor[bytes], key: bytes) -> bytes:
    """The bitmap whose pages' keys begin so."""
    pages = []
    more = seen.set_range(key)
    while more and seen.key().startswith(key):
        pages.append((PAGED.unpack(seen.key()[-PAGED.size :])[1], seen.value()))
        more = seen.next()
    return join(pages)


def delete_log(transaction: lmdb.Transaction[memoryview], tables: Tables, born: int) -> None:
    """Delete a log, its event ids, and all models' records and bitmaps of it."""
    prefix = BORN.pack(born)
    delete(transaction, tables.log, prefix)
    delete(transaction, tables.ids, prefix)
    records = transaction.cursor(tables.records)
    more = records.first()
    while more:  # from model to model
        model = bytes(records.key()[: -BORN.size])
        delete(transaction, tables.records, model + prefix)
        delete(transaction, tables.seen, model + prefix)
        more = records.set_range(model + b"\xff" * (BORN.size + 1))


def delete(
    transaction: lmdb.Transaction[memoryview], table: Any, prefix: bytes, most: int = sys.maxsize
) -> int:
    """Delete the first keys, at most so many, that begin so; -> how many."""
    cursor, deleted = transaction.cursor(table), 0
    more = cursor.set_range(prefix)
    while more and deleted < most and cursor.key()[: len(prefix)] == prefix:
        cursor.delete()
        deleted += 1
        more = bool(cursor.key())
    return deleted
