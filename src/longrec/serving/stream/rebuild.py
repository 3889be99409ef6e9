"""All users' records made anew from the log, with older events put in front of it, beside a stream.

First the histories are imported, user by user in their order, then the records are made, user by
user in the store's. After each page of users the store's meta notes how far it came, so that it
goes on there when it is called again. A page may be done twice without harm, and is small, so that
whoever observes users meanwhile does not wait for long.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from longrec.core.arrays import Ints
from longrec.data.histories import Histories
from longrec.serving.records.engine import Engine
from longrec.serving.stores.log_reader import (
    LogReplaced,
    read_users,
    retry_if_replaced,
    user_pages,
)
from longrec.serving.stores.protocol import (
    Event,
    Put,
    Store,
    StoredUser,
    next_version,
    read_header,
)
from longrec.serving.stream.catch_up import bitmap, catch_up
from longrec.serving.stream.id_keys import ItemIndex, keys_of
from longrec.serving.stream.imports import (
    TRIES,
    begin_import,
    note_import,
    packed_columns,
    put_in_front,
    take_back,
)

USERS = 128
"""Users per page at most."""
EVENTS = 4_096
"""Events of histories per page, but for one longer history."""
ROUNDS = 3
"""How often it is looked for users who came meanwhile; later ones catch up when they are read."""
COUNTS = ("users", "events", "imported", "left_out")


class Rebuilt(NamedTuple):
    """What a rebuild did, the calls that were interrupted included.

    users : whose records were made; events : replayed for them; imported, left_out : events of the
    histories that were put in front of the log, and that were not; seconds : of the last call.
    """

    users: int
    events: int
    imported: int
    left_out: int
    seconds: float


class Rebuild:
    """A rebuild of one model's records.

    Parameters
    ----------
    store, engine, items : of the stream.
    histories : to be imported, or None.
    progress : called with (users done, users in all); one who is imported counts there, too.
    skipped_only : make those records alone that have skipped events of unknown items.

    Attributes
    ----------
    longest : most known events of a user.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        items: ItemIndex,
        histories: Histories | None = None,
        progress: Callable[[int, int], None] | None = None,
        skipped_only: bool = False,
    ) -> None:
        self.store, self.engine, self.items = store, engine, items
        self.histories, self.progress, self.skipped_only = histories, progress, skipped_only
        self.longest = 0
        self._done: dict[str, Any] = {}
        self._forgotten = set[bytes]()
        self._in_all = 0

    def run(self, catalog_version: str) -> Rebuilt:
        """Do it, or go on with it; see `Stream.rebuild`."""
        begun = time.monotonic()
        self._begin(catalog_version)
        if self.histories is not None:
            self._in_all = 2 * self.histories.n_users
            self._import(self.histories)
            self._in_all = self.histories.n_users
        self._in_all += self.store.totals().users
        while users := self.store.users(bytes.fromhex(self._done["after"]), USERS):
            chosen = self._who_skipped(users) if self.skipped_only else users
            if chosen:
                self._make_records(chosen)
            self._note(after=users[-1].hex(), passed=self._done["passed"] + len(users))
        for _ in range(0 if self.skipped_only else ROUNDS):
            if not self._make_missing_records():
                break
        counts = {name: self._done[name] for name in COUNTS}
        return Rebuilt(**counts, seconds=time.monotonic() - begun)

    def _begin(self, catalog_version: str) -> None:
        """Find out how far an interrupted one came that had the same to do."""
        job = job_of(self.engine.digest, catalog_version, self.histories, self.skipped_only)
        self._done = self.store.meta().get("rebuild", {}).get(self.engine.digest, {})
        if self._done.get("job") != job:
            self._done = {"job": job, "after": "", **dict.fromkeys(COUNTS, 0)}
            if self.histories is not None:
                self._done |= begin_import(self.store, self.histories)
        # What earlier versions noted lacks these.
        self._done = {"read": 0, "passed": self._done["users"], "whole": False} | self._done
        self._save()

    def _note(self, **changes: Any) -> None:
        """Note in the store how far it came, then report it."""
        self._done |= changes
        self._save()
        if self.progress is not None:
            done = self._done["read"] + self._done["passed"]
            self.progress(done, max(done, self._in_all))

    def _save(self) -> None:
        def change(meta: dict[str, Any]) -> set[bytes]:
            meta.setdefault("rebuild", {})[self.engine.digest] = self._done
            if self.histories is None:
                return set()
            return note_import(meta, self.histories, self._done)

        self._forgotten = self.store.change_meta(change)

    def _import(self, histories: Histories) -> None:
        keys = np.array(keys_of(histories.catalog.ids, "item").to_list(), object)
        names = keys_of(histories.user_ids, "user")
        times = histories.times
        for start, end in _pages(histories.offsets, self._done["read"]):
            histories.check()
            older: dict[bytes, list[Event]] = {}
            for row, user in zip(range(start, end), names[start:end].to_list(), strict=True):
                here = slice(histories.offsets[row], histories.offsets[row + 1])
                items = keys[histories.items[here] - 1].tolist()
                clocks = [0] * len(items) if times is None else times[here].tolist()
                columns = packed_columns(histories, here)
                older[user] = list(map(Event, clocks, items, repeat(None), columns))
            forgotten = self._forgotten
            kept = {user: events for user, events in older.items() if user not in forgotten}
            imported = put_in_front(self.store, kept, times is not None, self._done["whole"])
            self._note(
                read=end,
                imported=self._done["imported"] + imported,
                left_out=self._done["left_out"] + sum(map(len, older.values())) - imported,
            )
            for user in older.keys() & (self._forgotten - forgotten):
                take_back(self.store, user, older[user])

    def _who_skipped(self, users: Sequence[bytes]) -> list[bytes]:
        """Those whose records have skipped events, or cannot be read."""
        stored = read_users(self.store, self.engine.digest, users)
        return [user for user, one in stored if _may_have_skipped(one)]

    def _make_records(self, users: Sequence[bytes]) -> None:
        """Make the records of some users, and write them unless others write newer ones."""
        page = make_records(self.store, self.engine, self.items, users)
        self._done["users"] += sum(one.last > 0 for one in page.stored)
        self._done["events"] += page.replayed
        known = page.records["sequence"] - page.records["skipped"]
        self.longest = max(self.longest, int(known.max(initial=0)))

    def _make_missing_records(self) -> bool:
        """Make the records of those who have none, having come meanwhile; -> if there were some."""
        totals = self.store.totals()
        if totals.records.get(self.engine.digest, 0) >= totals.users:
            return False
        some = False
        for users in user_pages(self.store):
            stored = read_users(self.store, self.engine.digest, users)
            missing = [user for user, one in stored if one.last and not one.record]
            if missing:
                some = True
                self._make_records(missing)
        return some


def make_records(store: Store, engine: Engine, items: ItemIndex, users: Sequence[bytes]) -> _Page:
    """Make the records of some users from their logs, and write them unless others write newer."""
    page = _Page(store, engine, items, users)
    retry_if_replaced(store, page.write, TRIES)
    return page


def job_of(
    digest: str, catalog_version: str, histories: Histories | None, skipped_only: bool = False
) -> str:
    """What a rebuild has to do, as a digest: only one with the same to do goes on with another."""
    fingerprint = "" if histories is None else histories.fingerprint
    # "commit": a word of earlier versions, so that a rebuild which they began is gone on with.
    words = f"{fingerprint} {'skipped' if skipped_only else 'commit'} {digest} {catalog_version}"
    return hashlib.sha256(words.encode()).hexdigest()


def _may_have_skipped(stored: StoredUser) -> bool:
    """Of one without a record it is made when the user is next read."""
    return stored.record is not None and read_header(stored.record).skipped > 0


class _Page:
    """Some users whose records are made together.

    Attributes
    ----------
    stored : what the store has of them; records : (n,) as far as they are replayed;
    seen : per user the indices of the items replayed; pending : users not written yet;
    replayed : events.
    """

    def __init__(
        self, store: Store, engine: Engine, items: ItemIndex, users: Sequence[bytes]
    ) -> None:
        self.store, self.engine, self.items = store, engine, items
        read = read_users(store, engine.digest, users)
        self.users, self.stored = [user for user, _ in read], [one for _, one in read]
        self.records = engine.layout.load([None] * len(read))
        self.seen: list[Ints] = [np.zeros(0, np.int64)] * len(read)
        self.pending = [row for row, one in enumerate(self.stored) if one.last]
        self.replayed = 0

    def write(self) -> None:
        """Replay logs to their ends and write the records of the pending users.

        Raises
        ------
        LogReplaced
            When some are pending still, since others wrote meanwhile.
        """
        before = int(self.records["sequence"].sum())
        found = catch_up(self.store, self.engine, self.items, self.users, self.stored, self.records)
        for row, more in found.items():
            self.seen[row] = np.union1d(self.seen[row], more)
        self.replayed += int(self.records["sequence"].sum()) - before
        puts = []
        for row in self.pending:
            version = self.stored[row].version
            self.records["version"][row] = next_version(version)
            if self.records["sequence"][row] == self.stored[row].last:
                record = self.engine.dump(self.records, row, self.users[row])
                seen = bitmap(self.seen[row])
                puts.append(Put(self.users[row], self.stored[row].log_id, version, record, seen))
        if self.store.put(self.engine.digest, puts) < len(self.pending):
            self._find_pending({put.user: put.record for put in puts})
            if self.pending:
                raise LogReplaced

    def _find_pending(self, written: dict[bytes, bytes]) -> None:
        """Read the pending users again: those whose records are not what was written stay."""
        asked = [(self.users[row], ()) for row in self.pending]
        pending = []
        for row, now in zip(self.pending, self.store.read(self.engine.digest, asked), strict=True):
            if now.last and now.record != written.get(self.users[row], b""):
                pending.append(row)
                if now.log_id != self.stored[row].log_id:  # another log: from its beginning
                    self.records[row] = self.engine.layout.load([None])[0]
                    self.seen[row] = np.zeros(0, np.int64)
                self.stored[row] = now
        self.pending = pending


def _pages(offsets: Ints, start: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows from `start` on, of USERS users or EVENTS events, whichever is less."""
    users = len(offsets) - 1
    while start < users:
        full = int(np.searchsorted(offsets, offsets[start] + EVENTS, side="right")) - 1
        end = min(max(full, start + 1), start + USERS, users)
        yield start, end
        start = end
