"""All users' records made anew from the log, with older events put in front of it, beside a stream.

First the histories are imported, user by user in their order, then the records are made, user by
user in the store's. After each page of users the store's meta notes how far it came, so that it
goes on there when it is called again. A page may be done twice without harm.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from longrec.core.arrays import Ints
from longrec.core.errors import UsageError
from longrec.data.histories import Histories
from longrec.serving.records.engine import Engine
from longrec.serving.stores.protocol import Event, Kept, Put, Store, version_of
from longrec.serving.stream.catch_up import bitmap, catch_up
from longrec.serving.stream.id_keys import ItemIndex, keys_of
from longrec.serving.stream.log_rewrite import TRIES, put_in_front, restless, sort_by_time

Order = Literal["commit", "time"]
USERS = 256
"""Users per page at most."""
EVENTS = 100_000
"""Events of histories per page, but for one longer history."""
ROUNDS = 3
"""How often it is looked for users who came meanwhile; later ones catch up when they are read."""
COUNTS = ("read", "users", "events", "imported", "left_out")
NONE = np.zeros(0, np.int64)


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
    order : "commit", or "time" to sort logs first.
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
        order: Order = "commit",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if order not in ("commit", "time"):
            raise UsageError(f"order is {order!r}; choose 'commit' or 'time'")
        self.store, self.engine, self.items = store, engine, items
        self.histories, self.order, self.progress = histories, order, progress
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
            if self.order == "time":
                for user in users:
                    sort_by_time(self.store, user)
            self._make(users)
            self._note(after=users[-1].hex())
        for _ in range(ROUNDS):
            if not self._make_missing():
                break
        counts = {name: self._done[name] for name in COUNTS[1:]}
        return Rebuilt(**counts, seconds=time.monotonic() - begun)

    def _begin(self, catalog_version: str) -> None:
        """Find out how far an interrupted one came that had the same to do."""
        fingerprint = "" if self.histories is None else self.histories.fingerprint
        words = f"{fingerprint} {self.order} {self.engine.digest} {catalog_version}"
        job = hashlib.sha256(words.encode()).hexdigest()
        self._done = self.store.meta().get("rebuild", {}).get(self.engine.digest, {})
        if self._done.get("job") != job:
            self._done = {"job": job, "after": "", **dict.fromkeys(COUNTS, 0)}
        self._save()

    def _note(self, **changes: Any) -> None:
        """Note in the store how far it came, then tell."""
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
                older.append([Event(t, item, None) for t, item in zip(clocks, items, strict=True)])
            users = names[start:end].to_list()
            imported = put_in_front(self.store, users, older, times is not None)
            self._note(
                read=end,
                imported=self._done["imported"] + imported,
                left_out=self._done["left_out"] + sum(map(len, older)) - imported,
            )

    def _make(self, users: Sequence[bytes]) -> None:
        """Make the records of some users, and write them unless others write newer ones."""
        kept = self.store.read(self.engine.digest, [(user, ()) for user in users])
        records = self.engine.load([None] * len(users))
        met: dict[int, Ints] = {}
        todo = [row for row, one in enumerate(kept) if one.last]
        for _ in range(TRIES):
            self._replay(users, kept, records, met)
            puts = []
            for row in todo:
                version = version_of(kept[row].record)
                records["version"][row] = version + 1
                seen = bitmap(met.get(row, NONE))
                if records["sequence"][row] == kept[row].last:
                    blob = self.engine.dump(records, row)
                    puts.append(Put(users[row], kept[row].born, version, blob, seen))
            if self.store.put(self.engine.digest, puts) == len(todo):
                todo = []
            written = {put.user: put.record for put in puts}
            asked = [(users[row], ()) for row in todo]
            again = []
            for row, now in zip(todo, self.store.read(self.engine.digest, asked), strict=True):
                if now.last and now.record != written.get(users[row], b""):
                    again.append(row)
                    if now.born != kept[row].born:
                        records[row] = self.engine.load([None])[0]
                        met.pop(row, None)
                    kept[row] = now
            todo = again
            if not todo:
                self._done["users"] += sum(one.last > 0 for one in kept)
                known = records["sequence"] - records["skipped"]
                self.longest = max(self.longest, int(known.max()))
                return
        raise restless(self.store)

    def _replay(
        self,
        users: Sequence[bytes],
        kept: Sequence[Kept],
        records: np.ndarray,
        met: dict[int, Ints],
    ) -> None:
        before = int(records["sequence"].sum())
        found = catch_up(self.store, self.engine, self.items, users, kept, records)
        for row, more in found.items():
            met[row] = np.union1d(met.get(row, NONE), more)
        self._done["events"] += int(records["sequence"].sum()) - before

    def _make_missing(self) -> bool:
        """Make the records of those who have none, having come meanwhile; -> if there were some."""
        totals = self.store.totals()
        if totals.records.get(self.engine.digest, 0) >= totals.users:
            return False
        after, some = b"", False
        while users := self.store.users(after, USERS):
            after = users[-1]
            kept = self.store.read(self.engine.digest, [(user, ()) for user in users])
            none = [u for u, one in zip(users, kept, strict=True) if one.last and not one.record]
            if none:
                some = True
                self._make(none)
        return some


def _pages(offsets: Ints, start: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows from `start` on, of USERS users or EVENTS events, whichever is less."""
    users = len(offsets) - 1
    while start < users:
        full = int(np.searchsorted(offsets, offsets[start] + EVENTS, side="right")) - 1
        end = min(max(full, start + 1), start + USERS, users)
        yield start, end
        start = end
