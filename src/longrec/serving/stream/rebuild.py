"""All users' records made anew from the log, with older events put in front of it, beside a stream.

First the histories are imported, user by user in their order, then the records are made, user by
user in the store's. After each page of users the store's meta notes how far it came, so that it
goes on there when it is called again. A page may be done twice without harm.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from longrec.core.arrays import Ints
from longrec.core.errors import DataError, UsageError
from longrec.data.histories import Histories
from longrec.serving.records.engine import Engine
from longrec.serving.stores.log_reader import (
    NO_MODEL,
    LogReplaced,
    read_events,
    read_log,
    retry_if_replaced,
    user_pages,
)
from longrec.serving.stores.packed_columns import pack_columns
from longrec.serving.stores.protocol import Event, Put, Rewrite, Store, version_of
from longrec.serving.stream.catch_up import bitmap, catch_up
from longrec.serving.stream.id_keys import ItemIndex, keys_of

USERS = 256
"""Users per page at most."""
EVENTS = 100_000
"""Events of histories per page, but for one longer history."""
TRIES = 100
"""How often users are tried again whose logs went on meanwhile."""
ROUNDS = 3
"""How often it is looked for users who came meanwhile; later ones catch up when they are read."""
COUNTS = ("read", "users", "events", "imported", "left_out")


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
    ) -> None:
        self.store, self.engine, self.items = store, engine, items
        self.histories, self.progress = histories, progress
        self.longest = 0
        self._done: dict[str, Any] = {}
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
            self._make_records(users)
            self._note(after=users[-1].hex())
        for _ in range(ROUNDS):
            if not self._make_missing_records():
                break
        counts = {name: self._done[name] for name in COUNTS[1:]}
        return Rebuilt(**counts, seconds=time.monotonic() - begun)

    def _begin(self, catalog_version: str) -> None:
        """Find out how far an interrupted one came that had the same to do."""
        fingerprint = "" if self.histories is None else self.histories.fingerprint
        # "commit": a word of earlier versions, so that a rebuild which they began is gone on with.
        words = f"{fingerprint} commit {self.engine.digest} {catalog_version}"
        job = hashlib.sha256(words.encode()).hexdigest()
        self._done = self.store.meta().get("rebuild", {}).get(self.engine.digest, {})
        if self._done.get("job") != job:
            self._done = {"job": job, "after": "", **dict.fromkeys(COUNTS, 0)}
        self._save()

    def _note(self, **changes: Any) -> None:
        """Note in the store how far it came, then report it."""
        self._done |= changes
        self._save()
        if self.progress is not None:
            done = self._done["read"] + self._done["users"]
            self.progress(done, max(done, self._in_all))

    def _save(self) -> None:
        def change(meta: dict[str, Any]) -> None:
            meta.setdefault("rebuild", {})[self.engine.digest] = self._done

        self.store.change_meta(change)

    def _import(self, histories: Histories) -> None:
        keys = np.array(keys_of(histories.catalog.ids, "item").to_list(), object)
        names = keys_of(histories.user_ids, "user")
        times = histories.times
        for start, end in _pages(histories.offsets, self._done["read"]):
            histories.check()
            older = []
            for row in range(start, end):
                here = slice(histories.offsets[row], histories.offsets[row + 1])
                items = keys[histories.items[here] - 1].tolist()
                clocks = [0] * len(items) if times is None else times[here].tolist()
                columns = packed_columns(histories, here)
                older.append(list(map(Event, clocks, items, repeat(None), columns)))
            users = names[start:end].to_list()
            imported = _put_in_front(self.store, users, older, times is not None)
            self._note(
                read=end,
                imported=self._done["imported"] + imported,
                left_out=self._done["left_out"] + sum(map(len, older)) - imported,
            )

    def _make_records(self, users: Sequence[bytes]) -> None:
        """Make the records of some users, and write them unless others write newer ones."""
        page = _Page(self.store, self.engine, self.items, users)
        retry_if_replaced(self.store, page.write, TRIES)
        self._done["users"] += sum(one.last > 0 for one in page.stored)
        self._done["events"] += page.replayed
        known = page.records["sequence"] - page.records["skipped"]
        self.longest = max(self.longest, int(known.max()))

    def _make_missing_records(self) -> bool:
        """Make the records of those who have none, having come meanwhile; -> if there were some."""
        totals = self.store.totals()
        if totals.records.get(self.engine.digest, 0) >= totals.users:
            return False
        some = False
        for users in user_pages(self.store):
            stored = self.store.read(self.engine.digest, [(user, ()) for user in users])
            missing = [
                u for u, one in zip(users, stored, strict=True) if one.last and not one.record
            ]
            if missing:
                some = True
                self._make_records(missing)
        return some


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
        self.store, self.engine, self.items, self.users = store, engine, items, users
        self.stored = store.read(engine.digest, [(user, ()) for user in users])
        self.records = engine.layout.load([None] * len(users))
        self.seen: list[Ints] = [np.zeros(0, np.int64)] * len(users)
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
            version = version_of(self.stored[row].record)
            self.records["version"][row] = version + 1
            if self.records["sequence"][row] == self.stored[row].last:
                record = self.engine.dump(self.records, row)
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


def _put_in_front(
    store: Store, users: Sequence[bytes], older: Sequence[Sequence[Event]], timed: bool
) -> int:
    """Put events in front of users' logs, those before the first one that is logged; -> how many.

    Where their times do not count (`timed`), only users without a log get them.
    """
    pending = {user: events for user, events in zip(users, older, strict=True) if events}
    imported = 0

    def import_pending() -> None:
        nonlocal imported
        stored = store.read(NO_MODEL, [(user, ()) for user in pending])
        rewrites = []
        for user, one in zip(list(pending), stored, strict=True):
            try:
                events = pending[user]
                if one.last:
                    [first] = read_events(store, user, one, 0, 1)
                    events = [event for event in events if timed and event.time < first.time]
                if events:
                    logged = [event for part in read_log(store, user, one) for event in part]
                    rewrites.append(Rewrite(user, one.log_id, one.last, [*events, *logged]))
                else:
                    del pending[user]
            except LogReplaced:
                continue
        for rewrite, done in zip(rewrites, store.rewrite(rewrites), strict=True):
            if done:
                imported += len(rewrite.events) - rewrite.last
                del pending[rewrite.user]
        if pending:
            raise LogReplaced

    retry_if_replaced(store, import_pending, TRIES)
    return imported


def packed_columns(histories: Histories, here: slice) -> list[bytes]:
    """Further columns of some events as they are logged: all that the histories have.

    Raises
    ------
    DataError
        When a name or a word is too long to be logged, or there are too many columns.
    """
    values = []
    for name, column in histories.columns.items():
        stored = histories.extra[name][here].tolist()
        if column.words is not None:
            words = (*column.words, None)  # -1 is the last place
            values.append([words[code] for code in stored])
        else:
            values.append([value if math.isfinite(value) else None for value in stored])
    if not values:
        return [b""] * (here.stop - here.start)
    try:
        names = list(histories.columns)
        rows = zip(*values, strict=True)
        return [pack_columns(dict(zip(names, row, strict=True))) for row in rows]
    except UsageError as error:
        raise DataError(f"{histories.path}: {error}") from None


def _pages(offsets: Ints, start: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows from `start` on, of USERS users or EVENTS events, whichever is less."""
    users = len(offsets) - 1
    while start < users:
        full = int(np.searchsorted(offsets, offsets[start] + EVENTS, side="right")) - 1
        end = min(max(full, start + 1), start + USERS, users)
        yield start, end
        start = end
