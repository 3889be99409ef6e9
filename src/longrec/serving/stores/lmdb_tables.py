"""The tables of an LMDB store, and what is done to them within a transaction.

    table    key                                     value
    meta     "meta"                                  JSON
             "born"                                  the last log id given out, u64
    users    user                                    id of the user's log, u64
    log      log id, number of the event: u64 each   the event (encoding.py)
    ids      log id u64, event id                    nothing
    records  digest, log id u64                      the record
    seen     digest, log id u64, page u32            a page of the bitmap (encoding.py)

Numbers in keys are big-endian, so that LMDB's order is theirs. The last number of a log stands
nowhere but in its last key: it cannot disagree, and an event changes one page less.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import lmdb

from longrec.serving.stores.encoding import add_bits, bits_by_page, join_bitmap, pack_event
from longrec.serving.stores.protocol import (
    SCHEMA,
    WITH_COLUMNS,
    Append,
    Appended,
    Event,
    note_columns,
    version_of,
)

LOG_KEY = struct.Struct(">Q")
EVENT_KEY = struct.Struct(">QQ")
PAGE_KEY = struct.Struct(">QI")
_LAST_EVENT = 2**64 - 1


class Tables(NamedTuple):
    """LMDB's handles of the tables."""

    meta: Any
    users: Any
    log: Any
    ids: Any
    records: Any
    seen: Any


def load_meta(transaction: lmdb.Transaction[Any] | OpenTables, meta: Any) -> dict[str, Any]:
    """What is kept of the store itself."""
    return dict(json.loads(bytes(transaction.get(b"meta", b"{}", db=meta))))


class OpenTables:
    """The tables within a transaction: `get`, `put`, `delete`, `stat` and `cursor` are LMDB's."""

    def __init__(self, transaction: lmdb.Transaction[Any], tables: Tables) -> None:
        self.get, self.put, self.delete = transaction.get, transaction.put, transaction.delete
        self.cursor, self.stat = transaction.cursor, transaction.stat
        self.meta, self.users, self.log, self.ids, self.records, self.seen = tables

    def load_meta(self) -> dict[str, Any]:
        """What is kept of the store itself."""
        return load_meta(self, self.meta)

    def save_meta(self, value: dict[str, Any]) -> None:
        """Keep that."""
        self.put(b"meta", json.dumps(value).encode(), db=self.meta)

    def find_log_id(self, user: bytes) -> int:
        """The id of a user's log; 0 if there is no such user."""
        found = self.get(user, db=self.users)
        return LOG_KEY.unpack(found)[0] if found is not None else 0

    def last_event(self, log_id: int) -> int:
        """The number of the last event in a log; 0 if it has none."""
        log = self.cursor(self.log)
        found = log.prev() if log.set_range(EVENT_KEY.pack(log_id, _LAST_EVENT)) else log.last()
        owner, number = EVENT_KEY.unpack(log.key()) if found else (0, 0)
        return number if owner == log_id else 0

    def read_bitmap(self, prefix: bytes) -> bytes:
        """The bitmap whose pages' keys begin with `prefix`."""
        pages, seen = [], self.cursor(self.seen)
        more = seen.set_range(prefix)
        while more and seen.key().startswith(prefix):
            pages.append((PAGE_KEY.unpack(seen.key()[-PAGE_KEY.size :])[1], seen.value()))
            more = seen.next()
        return join_bitmap(pages)

    def append(self, model: bytes, append: Append) -> Appended:
        """Log events, and write record and bitmap if these are made from what is stored."""
        log_id = self.find_log_id(append.user)
        last, current = self.last_event(log_id) if log_id else 0, append.log_id == log_id
        if not log_id:  # new, or forgotten since it was read
            log_id = self.begin_log(append.user)
        key = model + LOG_KEY.pack(log_id)
        current = (
            current
            and append.record is not None
            and append.last == last
            and append.version == version_of(self.get(key, db=self.records))
        )
        new, last = self.log_events(log_id, last, append.events)
        if not current or append.record is None or not all(new):
            return Appended(new, last, False)
        self.put(key, append.record, db=self.records)
        for page, added in bits_by_page(append.seen).items():
            page_key = model + PAGE_KEY.pack(log_id, page)
            before = bytes(self.get(page_key, b"", db=self.seen))
            bits = add_bits(before, added)
            if bits != before:
                self.put(page_key, bits, db=self.seen)
        return Appended(new, last, True)

    def begin_log(self, user: bytes) -> int:
        """Give a user a log, with an id that no log had before."""
        before = self.get(b"born", db=self.meta)
        log_id: int = (LOG_KEY.unpack(before)[0] if before is not None else 0) + 1
        self.put(b"born", LOG_KEY.pack(log_id), db=self.meta)
        self.put(user, LOG_KEY.pack(log_id), db=self.users)
        return log_id

    def log_events(
        self, log_id: int, last: int, events: Sequence[Event]
    ) -> tuple[tuple[bool, ...], int]:
        """Log those of the events that are new; -> which they are, and the log's last number."""
        if any(event.columns for event in events):
            self._note_columns()
        new, prefix = [], LOG_KEY.pack(log_id)
        for event in events:
            name = event.event_id
            is_new = name is None or self.put(prefix + name, b"", overwrite=False, db=self.ids)
            if is_new:
                last += 1
                self.put(EVENT_KEY.pack(log_id, last), pack_event(event), db=self.log)
            new.append(is_new)
        return tuple(new), last

    def _note_columns(self) -> None:
        meta = self.load_meta()
        if meta.get("schema", SCHEMA) < WITH_COLUMNS:
            note_columns(meta)
            self.save_meta(meta)

    def delete_log(self, log_id: int) -> None:
        """Delete a log, its event ids, and all models' records and bitmaps of it."""
        prefix = LOG_KEY.pack(log_id)
        self.delete_keys(self.log, prefix)
        self.delete_keys(self.ids, prefix)
        records = self.cursor(self.records)
        more = records.first()
        while more:  # from model to model
            model = bytes(records.key()[: -LOG_KEY.size])
            self.delete_keys(self.records, model + prefix)
            self.delete_keys(self.seen, model + prefix)
            more = records.set_range(model + b"\xff" * (LOG_KEY.size + 1))

    def delete_keys(self, table: Any, prefix: bytes, most: int = sys.maxsize) -> int:
        """Delete keys that begin with `prefix`, at most so many; -> how many."""
        cursor, deleted = self.cursor(table), 0
        more = cursor.set_range(prefix)
        while more and deleted < most and cursor.key()[: len(prefix)] == prefix:
            cursor.delete()
            deleted += 1
            more = bool(cursor.key())
        return deleted
