"""The store of one process: an LMDB file, where one transaction holds the events and the records.

LMDB never overwrites what the last transaction left, so a process that dies at any moment leaves a
whole store, with all that was acknowledged.

power : a commit waits for the disk twice, for the data and for the page that makes them valid.
    All appends of one call are one commit, which is what makes groups cheap.
process : commits wait for nothing; at one of them, about every second, all is brought to the disk.
    A power cut may then lose more than that second: the disk may have got the later page without
    the data before it, and such a store is damaged. Restore it from a backup.

One process writes; others may open it readonly beside it. Threads may share a store, or open it
each on their own. A process that was forked opens its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

from longrec.core.choices import Durability
from longrec.core.errors import UsageError
from longrec.serving.stores.encoding import split_bitmap, unpack_event
from longrec.serving.stores.lmdb_folder import LmdbFolder
from longrec.serving.stores.lmdb_tables import EVENT_KEY, LOG_KEY, PAGE_KEY, OpenTables
from longrec.serving.stores.protocol import (
    Append,
    Appended,
    Event,
    Put,
    Rewrite,
    StoredUser,
    Totals,
    version_of,
)

T = TypeVar("T")
DROPPED = 512
"""Keys deleted in one transaction when all records of a model go."""


class LmdbStore:
    """A `Store` in a folder, made if need be; errors are those of `open_store`."""

    def __init__(self, path: str, durability: Durability, readonly: bool) -> None:
        self._folder = LmdbFolder.acquire(path, durability, readonly)
        self.url, self.durability = self._folder.url, durability
        self.folder = self._folder.path
        self._readonly, self._closed = readonly, False

    def read(
        self, digest: str, asked: Sequence[tuple[bytes, Sequence[bytes]]], seen: bool = False
    ) -> list[StoredUser]:
        model = bytes.fromhex(digest)

        def work(tables: OpenTables) -> list[StoredUser]:
            get, stored = tables.get, []
            for user, names in asked:
                prefix = get(user, db=tables.users)
                if prefix is None:
                    stored.append(StoredUser(0, 0, None, b"", (False,) * len(names)))
                    continue
                log_id, key = LOG_KEY.unpack(prefix)[0], model + prefix
                record = get(key, db=tables.records)
                bitmap = tables.read_bitmap(key) if seen else b""
                known = tuple([get(prefix + name, db=tables.ids) is not None for name in names])
                last = tables.last_event(log_id)
                stored.append(StoredUser(log_id, last, record, bitmap, known))
            return stored

        return self._read(work)

    def events(self, user: bytes, log_id: int, after: int, limit: int) -> list[Event]:
        def work(tables: OpenTables) -> list[Event]:
            if not log_id or tables.find_log_id(user) != log_id:
                return []
            count = min(limit, tables.last_event(log_id) - after)
            if count <= 0:
                return []
            cursor = tables.cursor(tables.log)
            cursor.set_range(EVENT_KEY.pack(log_id, after + 1))
            pairs = list(islice(cursor.iternext(), count))
            if pairs[-1][0] != EVENT_KEY.pack(log_id, after + count):  # damaged: up to the gap
                keys = [EVENT_KEY.pack(log_id, after + n + 1) for n in range(count)]
                pairs = [pair for pair, key in zip(pairs, keys, strict=False) if pair[0] == key]
            return [unpack_event(value) for _, value in pairs]

        return self._read(work)

    def append(self, digest: str, appends: Sequence[Append]) -> list[Appended]:
        model = bytes.fromhex(digest)
        return self._write(lambda tables: [tables.append(model, append) for append in appends])

    def put(self, digest: str, puts: Sequence[Put]) -> int:
        model = bytes.fromhex(digest)

        def work(tables: OpenTables) -> int:
            written = 0
            for put in puts:
                key = model + LOG_KEY.pack(put.log_id)
                version = version_of(tables.get(key, db=tables.records))
                log_id = tables.find_log_id(put.user)
                if log_id and (log_id, version) == (put.log_id, put.version):
                    written += 1
                    tables.put(key, put.record, db=tables.records)
                    tables.delete_keys(tables.seen, key)
                    for page, bits in split_bitmap(put.seen).items():
                        tables.put(model + PAGE_KEY.pack(put.log_id, page), bits, db=tables.seen)
            return written

        return self._write(work)

    def rewrite(self, rewrites: Sequence[Rewrite]) -> list[bool]:
        def work(tables: OpenTables) -> list[bool]:
            done = []
            for rewrite in rewrites:
                log_id = tables.find_log_id(rewrite.user)
                last = tables.last_event(log_id) if log_id else 0
                done.append((log_id, last) == (rewrite.log_id, rewrite.last))
                if done[-1]:
                    if log_id:
                        tables.delete_log(log_id)
                    if rewrite.events:
                        log_id = tables.begin_log(rewrite.user)
                        tables.log_events(log_id, 0, rewrite.events)
                    elif log_id:
                        tables.delete(rewrite.user, db=tables.users)
            return done

        return self._write(work)

    def forget(self, user: bytes) -> bool:
        def work(tables: OpenTables) -> bool:
            log_id = tables.find_log_id(user)
            if log_id:
                tables.delete(user, db=tables.users)
                tables.delete_log(log_id)
            return log_id > 0

        return self._write(work)

    def users(self, after: bytes, limit: int) -> list[bytes]:
        def work(tables: OpenTables) -> list[bytes]:
            cursor = tables.cursor(tables.users)
            if not (cursor.set_range(after) if after else cursor.first()):
                return []
            if cursor.key() == after and not cursor.next():
                return []
            return list(islice(cursor.iternext(values=False), limit))

        return self._read(work)

    def meta(self) -> dict[str, Any]:
        return self._read(lambda tables: tables.load_meta())

    def change_meta(self, change: Callable[[dict[str, Any]], T]) -> T:
        def work(tables: OpenTables) -> T:
            meta = tables.load_meta()
            done = change(meta)
            tables.save_meta(meta)
            return done

        return self._write(work)

    def drop(self, digest: str) -> int:
        model, dropped = bytes.fromhex(digest), 0

        def work(tables: OpenTables) -> tuple[int, int]:
            records = tables.delete_keys(tables.records, model, DROPPED)
            return records, tables.delete_keys(tables.seen, model, DROPPED)

        while any(done := self._write(work)):  # some at a time: others write meanwhile
            dropped += done[0]
        return dropped

    def totals(self) -> Totals:
        def work(tables: OpenTables) -> Totals:
            users, events = (tables.stat(table)["entries"] for table in (tables.users, tables.log))
            keys = tables.cursor(tables.records).iternext(values=False)
            records = Counter(key[: -LOG_KEY.size] for key in keys)
            return Totals(users, events, {key.hex(): count for key, count in records.items()}, 0)

        return self._read(work)._replace(bytes=self._folder.size())

    def check_ready(self) -> None:
        self.meta()
        if not self._readonly:
            self._folder.check_room()

    def compact(self) -> tuple[int, int]:
        """Write the store anew without what was deleted; writers wait meanwhile, readers do not.

        It needs room for a copy; afterwards nothing is left in its files of what was deleted.
        """
        self._check_writable()
        return self._folder.compact()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._folder.release()

    def _read(self, work: Callable[[OpenTables], T]) -> T:
        self._check_open()
        return self._folder.read(work)

    def _write(self, work: Callable[[OpenTables], T]) -> T:
        self._check_writable()
        return self._folder.write(work)

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self.url} was closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self._readonly:
            raise UsageError(
                f"{self.url} was opened readonly: open it with readonly=False to write to it"
            )
