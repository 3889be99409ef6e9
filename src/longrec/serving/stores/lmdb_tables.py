"""The tables of an LMDB store, and what is done to them within a transaction.

    table    key                                     value
    meta     "meta"                                  JSON
             "born"                                  the last log id given out, u64; a checksum u32
    users    user                                    id of the user's log, number of its last event:
                                                     u64 each; a checksum u32
    log      log id, number of the event: u64 each   a checksum u32, the event (encoding.py)
    ids      log id u64, event id                    a digest of the event (checks.py)
    records  digest, log id u64                      the record
    seen     digest, log id u64                      the list of the bitmap's pages (checks.py)
             digest, log id u64, page u32            a page of the bitmap (checks.py)

Numbers in keys are big-endian, so that LMDB's order is theirs; checksums are those of checks.py.

LMDB ends the process where it goes from a page to the next one and finds no page there. So it is
asked for single keys alone, where it says so in an error; whatever needs keys one after the other
takes them from the pages (lmdb_pages.py).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import lmdb

from longrec.core.errors import DataError
from longrec.serving.stores.checks import (
    CHECK,
    add_bits,
    bits_by_page,
    event_check,
    event_digest,
    head_check,
    is_sealed,
    owner_check,
    pack_list,
    pack_meta,
    pack_pages,
    unpack_list,
    unpack_meta,
    unpack_pages,
)
from longrec.serving.stores.encoding import pack_event, unpack_event
from longrec.serving.stores.lmdb_pages import Pages, Root
from longrec.serving.stores.protocol import (
    DAMAGED,
    HEADER,
    Append,
    Appended,
    Event,
    Put,
    StoreDamaged,
    StoredUser,
    UserDamaged,
    version_of,
)

LOG_KEY = struct.Struct(">Q")
EVENT_KEY = struct.Struct(">QQ")
PAGE_KEY = struct.Struct(">QI")
HEAD = struct.Struct(">QQI")
BORN = struct.Struct(">QI")
DIGEST_BYTES = 32
LOG_AT = {"log": 0, "ids": 0, "records": DIGEST_BYTES, "seen": DIGEST_BYTES}
"""Per table whose keys have the id of a log, where it begins."""
LONGEST = 2**17
"""Bytes of an event, or of what is kept of a bitmap, beyond which its size is not believed: to read
beyond the end of the file would end the process."""


class Tables(NamedTuple):
    """LMDB's handles of the tables."""

    meta: Any
    users: Any
    log: Any
    ids: Any
    records: Any
    seen: Any


def load_meta(transaction: lmdb.Transaction[Any] | OpenTables, meta: Any) -> dict[str, Any]:
    """What is kept of the store itself.

    Raises
    ------
    DataError
        When it is damaged.
    """
    found = transaction.get(b"meta", db=meta)
    if found is None:
        return {}
    unpacked = unpack_meta(bytes(found))
    if unpacked is None:
        raise DataError(
            "what the store keeps of itself is damaged: restore a backup (`longrec store restore`)"
        )
    return unpacked


class OpenTables:
    """The tables within a transaction: `get`, `put` and `delete` are LMDB's.

    Parameters
    ----------
    transaction, tables : of an open file.
    descriptor, page : of the file, and the bytes of one of its pages.
    """

    def __init__(
        self, transaction: lmdb.Transaction[Any], tables: Tables, descriptor: int, page: int
    ) -> None:
        self.get, self.put, self.delete = transaction.get, transaction.put, transaction.delete
        self.stat, self._transaction = transaction.stat, transaction
        self._file = descriptor, page
        self.meta, self.users, self.log, self.ids, self.records, self.seen = tables

    def load_meta(self) -> dict[str, Any]:
        """What is kept of the store itself."""
        return load_meta(self, self.meta)

    def save_meta(self, value: dict[str, Any]) -> None:
        """Keep that."""
        self.put(b"meta", pack_meta(value), db=self.meta)

    def root(self, name: str) -> Root:
        """Where the pages of a table begin, without what this transaction has changed."""
        return self.pages.root(self._transaction, name)

    @cached_property
    def pages(self) -> Pages:
        """The file's, as they were when the transaction began."""
        return Pages(*self._file)

    # ---- reading

    def find_log(self, user: bytes) -> tuple[int, int]:
        """The id of a user's log, and the number of its last event; zeros if there is none.

        Raises
        ------
        UserDamaged
        """
        found = self.get(user, db=self.users)
        if found is None:
            return 0, 0
        if len(found) == HEAD.size:
            log_id, last, check = HEAD.unpack(found)
            if check == head_check(user, log_id, last):
                return log_id, last
        raise UserDamaged("where the log of this user is, and how long, does not fit its checksum")

    def read_user(
        self, model: bytes, user: bytes, names: Sequence[bytes], seen: bool
    ) -> StoredUser:
        """What is kept of a user, `seen` with the bitmap."""
        log_id, last = self.find_log(user)
        if not log_id:
            return StoredUser(0, 0, None, b"", (None,) * len(names))
        known = self.know(log_id, names)
        record, version, damaged = self.read_record(model, user, log_id)
        found = StoredUser(log_id, last, record, b"", known, version)
        if damaged:
            return found._replace(damaged="record")
        bitmap = self.read_bitmap(model, user, log_id) if seen else b""
        if bitmap is None:
            return found._replace(record=None, damaged="bitmap")
        return found._replace(seen=bitmap)

    def know(self, log_id: int, names: Sequence[bytes]) -> tuple[bytes | None, ...]:
        """Per event id the digest of its event in a log; None where it has none."""
        get, ids, prefix = self.get, self.ids, LOG_KEY.pack(log_id)
        return tuple([self._short(get(prefix + name, db=ids)) for name in names])

    def read_record(self, model: bytes, user: bytes, log_id: int) -> tuple[bytes | None, int, bool]:
        """A record that can be read, its version, and whether there is one that cannot."""
        found = self.get(model + LOG_KEY.pack(log_id), db=self.records)
        if found is None:
            return None, 0, False
        if len(found) >= HEADER.size:
            _, size, _, _, version, _, _ = HEADER.unpack_from(found)
            if size == len(found) and is_sealed(user, found):
                return bytes(found), version, False
        return None, version_of(found), True

    def read_bitmap(self, model: bytes, user: bytes, log_id: int) -> bytes | None:
        """A bitmap; None where it is damaged."""

        def page_of(number: int) -> bytes | None:
            return self._short(self.get(model + PAGE_KEY.pack(log_id, number), db=self.seen))

        owner = owner_check(model, user)
        packed = self.get(model + LOG_KEY.pack(log_id), db=self.seen)
        return unpack_pages(owner, self._short(packed), page_of)

    def read_event(self, user: bytes, log_id: int, number: int) -> Event:
        """An event of a log; `DAMAGED` where it is, or is not there."""
        value = self._short(self.get(EVENT_KEY.pack(log_id, number), db=self.log)) or b""
        packed = value[CHECK.size :]
        if value[: CHECK.size] != CHECK.pack(event_check(user, packed, number)):
            return DAMAGED
        return unpack_event(packed)

    def _short(self, found: memoryview | bytes | None) -> bytes | None:
        """A value as bytes; b"", which none of these is, where its size cannot be believed."""
        return None if found is None else bytes(found) if len(found) < LONGEST else b""

    # ---- writing

    def append(self, model: bytes, append: Append) -> Appended:
        """Log events, and write record and bitmap if these are made from what is stored."""
        log_id, last = self.find_log(append.user)
        current = append.log_id == log_id
        log_id = log_id or self.new_log_id()  # new, or forgotten since it was read
        key = model + LOG_KEY.pack(log_id)
        current = (
            current
            and append.record is not None
            and append.last == last
            and append.version == version_of(self.get(key, db=self.records))
        )
        new, last = self.log_events(append.user, log_id, last, append.events)
        if not current or append.record is None or not all(new):
            return Appended(new, last, False)
        self.put(key, append.record, db=self.records)
        self._add_items(model, append.user, log_id, append.seen)
        return Appended(new, last, True)

    def put_record(self, model: bytes, put: Put) -> bool:
        """Write a record and its bitmap, if the log is the same and nobody else wrote one."""
        log_id, _ = self.find_log(put.user)
        key = model + LOG_KEY.pack(put.log_id)
        version = version_of(self.get(key, db=self.records))
        if not log_id or (log_id, version) != (put.log_id, put.version):
            return False
        self.put(key, put.record, db=self.records)
        owner = owner_check(model, put.user)
        before = unpack_list(owner, self._short(self.get(key, db=self.seen)))
        packed, pages = pack_pages(owner, put.seen)
        if before is None or not pages.keys() >= set(before):
            self.delete_keys("seen", key)
        self.put(key, packed, db=self.seen)
        for number, page in pages.items():
            self.put(model + PAGE_KEY.pack(log_id, number), page, db=self.seen)
        return True

    def _add_items(self, model: bytes, user: bytes, log_id: int, items: Sequence[int]) -> None:
        """Set items' bits in a bitmap."""
        owner, key = owner_check(model, user), model + LOG_KEY.pack(log_id)
        added = []
        for number, bits in bits_by_page(items).items():
            page_key = model + PAGE_KEY.pack(log_id, number)
            before = self._short(self.get(page_key, db=self.seen))
            if before is None:
                added.append(number)
            after = add_bits(owner, number, before or b"", bits)
            if after != before:
                self.put(page_key, after, db=self.seen)
        if added:
            listed = unpack_list(owner, self._short(self.get(key, db=self.seen)))
            if listed is not None:  # else it stays damaged, and all is replayed when it is read
                self.put(key, pack_list(owner, [*listed, *added]), db=self.seen)

    def new_log_id(self) -> int:
        """An id that no log had before."""
        log_id = self.last_log_id() + 1
        self.put(b"born", BORN.pack(log_id, head_check(b"born", log_id, 0)), db=self.meta)
        return log_id

    def last_log_id(self) -> int:
        """The last id that was given to a log.

        Raises
        ------
        DataError
            When it is damaged: the next one might be that of another user's log.
        """
        before = self.get(b"born", db=self.meta)
        if before is None:
            return 0
        if len(before) == BORN.size:
            log_id, check = BORN.unpack(before)
            if check == head_check(b"born", log_id, 0):
                return int(log_id)
        raise DataError(
            "the last id of a log is damaged, so that no new user can be taken in: restore a "
            "backup (`longrec store restore`)"
        )

    def log_events(
        self, user: bytes, log_id: int, last: int, events: Sequence[Event]
    ) -> tuple[tuple[bool, ...], int]:
        """Log those of the events that are new; -> which they are, and the log's last number."""
        new, prefix, before = [], LOG_KEY.pack(log_id), last
        for event in events:
            name, packed = event.event_id, pack_event(event)
            digest = event_digest(user, packed)
            is_new = name is None or self.put(prefix + name, digest, overwrite=False, db=self.ids)
            if is_new:
                last += 1
                check = CHECK.pack(event_check(user, packed, last))
                self.put(EVENT_KEY.pack(log_id, last), check + packed, db=self.log)
            new.append(is_new)
        if last > before:
            head = HEAD.pack(log_id, last, head_check(user, log_id, last))
            self.put(user, head, db=self.users)
        return tuple(new), last

    def delete_log(self, log_id: int) -> None:
        """Delete a log, its event ids, and all models' records and bitmaps of it."""
        prefix = LOG_KEY.pack(log_id)
        self.delete_keys("log", prefix)
        self.delete_keys("ids", prefix)
        for model in list(self.models()):
            self.delete_keys("records", model + prefix)
            self.delete_keys("seen", model + prefix)

    def models(self) -> Iterator[bytes]:
        """The digests of the models that have records."""
        root, start = self.root("records"), b""
        while (key := next(self.pages.keys(root, start), None)) is not None:
            model = key[: -LOG_KEY.size]
            yield model
            start = model + b"\xff" * (LOG_KEY.size + 1)

    def delete_keys(self, name: str, prefix: bytes, most: int | None = None) -> int:
        """Delete keys of a table that begin with `prefix`, at most so many; -> how many.

        They are those that the table had when the transaction began.

        Raises
        ------
        StoreDamaged
            When pages are damaged there: LMDB would end the process.
        """
        root = self.root(name)
        keys = list(islice(self.pages.beginning(root, prefix), most))
        if keys and not self.pages.is_whole_around(root, keys[0], keys[-1]):
            page = self.pages.broken[-1]
            raise StoreDamaged(
                f"page {page.page:,} of the store is damaged ({page.words}), and nothing can be "
                "deleted beside it: `longrec store verify` says what is lost, and `longrec store "
                "compact` saves the rest"
            )
        table = getattr(self, name)
        return sum([self.delete(key, db=table) for key in keys])
