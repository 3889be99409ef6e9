"""The store of one process: an LMDB file, where one transaction holds the events and the records.

LMDB never overwrites what the last transaction left, so a process that dies at any moment leaves a
whole store, with all that was acknowledged.

power : a commit waits for the disk twice, for the data and for the page that makes them valid.
    All appends of one call are one commit, which is what makes groups cheap.
process : commits wait for nothing; at one of them, about every second, all is brought to the disk.
    A power cut may then lose more than that second: the disk may have got the later page without
    the data before it. Such a store says so when it is opened, and where it is damaged it is not
    written to any more: restore it from a backup.

One process writes; others may open it readonly beside it. Threads may share a store, or open it
each on their own. A process that was forked opens its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from longrec.core.choices import Durability
from longrec.core.errors import UsageError
from longrec.serving.stores.damage import Damage
from longrec.serving.stores.lmdb_folder import LmdbFolder
from longrec.serving.stores.lmdb_tables import LOG_KEY, OpenTables
from longrec.serving.stores.protocol import (
    DAMAGED,
    Append,
    Appended,
    Event,
    Put,
    Rewrite,
    StoreDamaged,
    StoredUser,
    Totals,
    UserDamaged,
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

    parts = 1

    def part_of(self, user: bytes) -> int:
        return 0

    @property
    def damage(self) -> Damage:
        return self._folder.damage

    def read(
        self, digest: str, asked: Sequence[tuple[bytes, Sequence[bytes]]], seen: bool = False
    ) -> list[StoredUser]:
        model = bytes.fromhex(digest)

        def work(tables: OpenTables) -> list[StoredUser]:
            return [tables.read_user(model, user, names, seen) for user, names in asked]

        try:
            found = self._read(work)
        except (StoreDamaged, UserDamaged) as error:
            if len(asked) > 1:
                return [one for ask in asked for one in self.read(digest, [ask], seen)]
            if isinstance(error, UserDamaged):
                raise self._user_damaged() from error
            found = [self._read_apart(model, *asked[0], seen)]
        for one in found:
            if one.damaged:
                self.damage.note(one.damaged, where=f"log {one.log_id}")
        return found

    def _read_apart(
        self, model: bytes, user: bytes, names: Sequence[bytes], seen: bool
    ) -> StoredUser:
        """The same of one user some of whose pages are damaged: LMDB ends a transaction by that."""
        while True:
            try:
                log_id, last = self._read(lambda tables: tables.find_log(user))
                known = self._read(partial(OpenTables.know, log_id=log_id, names=names))
            except (StoreDamaged, UserDamaged) as error:
                raise self._user_damaged() from error
            found = StoredUser(log_id, last, None, b"", known)
            with suppress(StoreDamaged):
                found = self._read_cache(model, user, found, seen)
            if self._read(lambda tables: tables.find_log(user)) == (log_id, last):
                return found

    def _read_cache(self, model: bytes, user: bytes, found: StoredUser, seen: bool) -> StoredUser:
        """What is found of a user, with what can be read of record and bitmap."""
        log_id, damaged = found.log_id, found._replace(damaged="record")
        try:
            record, version, broken = self._read(lambda t: t.read_record(model, user, log_id))
        except StoreDamaged:
            return damaged
        if broken:
            return damaged._replace(version=version)
        try:
            bitmap = self._read(lambda t: t.read_bitmap(model, user, log_id)) if seen else b""
        except StoreDamaged:
            bitmap = None
        if bitmap is None:
            return found._replace(version=version, damaged="bitmap")
        return found._replace(record=record, version=version, seen=bitmap)

    def _user_damaged(self) -> UserDamaged:
        self.damage.note("user")
        return UserDamaged(
            f"{self.url}: what is kept of this user is damaged, and the log cannot be found. "
            "`longrec store verify` names all such users; the mend is to restore a backup, or to "
            "forget the user"
        )

    def events(self, user: bytes, log_id: int, after: int, limit: int) -> list[Event]:
        def work(tables: OpenTables) -> list[Event]:
            found, last = tables.find_log(user)
            if not log_id or found != log_id:
                return []
            numbers = range(after + 1, min(last, after + limit) + 1)
            return [tables.read_event(user, log_id, number) for number in numbers]

        try:
            events = self._read(work)
        except StoreDamaged:
            if limit == 1:
                events = [DAMAGED]
            else:  # LMDB ends a transaction by that: the good ones each in one of its own
                last = self._read(lambda tables: tables.find_log(user))[1]
                each = range(after, min(last, after + limit))
                return [one for n in each for one in self.events(user, log_id, n, 1)]
        except UserDamaged as error:
            raise self._user_damaged() from error
        for number, event in enumerate(events, after + 1):
            if event is DAMAGED:
                self.damage.note("event", where=f"event {number} of log {log_id}")
        return events

    def append(self, digest: str, appends: Sequence[Append]) -> list[Appended]:
        model = bytes.fromhex(digest)
        done = self._write(lambda tables: [tables.append(model, append) for append in appends])
        self._folder.note_taken()
        return done

    def put(self, digest: str, puts: Sequence[Put]) -> int:
        model = bytes.fromhex(digest)
        return self._write(lambda tables: sum([tables.put_record(model, put) for put in puts]))

    def rewrite(self, rewrites: Sequence[Rewrite]) -> list[bool]:
        def work(tables: OpenTables) -> list[bool]:
            done = []
            for rewrite in rewrites:
                log_id, last = tables.find_log(rewrite.user)
                done.append((log_id, last) == (rewrite.log_id, rewrite.last))
                if done[-1]:
                    if log_id:
                        tables.delete_log(log_id)
                    if rewrite.events:
                        tables.log_events(rewrite.user, tables.new_log_id(), 0, rewrite.events)
                    elif log_id:
                        tables.delete(rewrite.user, db=tables.users)
            return done

        return self._write(work)

    def forget(self, user: bytes) -> bool:
        """Of one whose log cannot be found, that goes with the next `compact`."""

        def work(tables: OpenTables) -> bool:
            with suppress(UserDamaged):
                log_id, _ = tables.find_log(user)
                if log_id:
                    tables.delete_log(log_id)
            return bool(tables.delete(user, db=tables.users))

        return self._write(work)

    def users(self, after: bytes, limit: int) -> list[bytes]:
        def work(tables: OpenTables) -> list[bytes]:
            users = tables.pages.keys(tables.root("users"), after)
            return list(islice((user for user in users if user != after), limit))

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
            records = tables.delete_keys("records", model, DROPPED)
            return records, tables.delete_keys("seen", model, DROPPED)

        while any(done := self._write(work)):  # some at a time: others write meanwhile
            dropped += done[0]
        return dropped

    def totals(self) -> Totals:
        def work(tables: OpenTables) -> Totals:
            users, events = (tables.stat(table)["entries"] for table in (tables.users, tables.log))
            keys = tables.pages.keys(tables.root("records"))
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

    def inspect(self) -> list[str]:
        return self._folder.inspect()

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
