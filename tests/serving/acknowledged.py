"""What killed children acknowledged of their streams, and the store that it is held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from serving import stream_jobs
from serving.small_streams import FIRST, UNKNOWN, check_best
from serving.stream_jobs import (
    SHARED,
    columns_of,
    own_user,
    recommender_and_engine,
    sent_by_all,
    step_of,
)

from longrec.core.choices import Durability
from longrec.serving.maintenance.verify import verify
from longrec.serving.stores.open import open_store
from longrec.serving.stores.packed_columns import pack_columns
from longrec.serving.stores.protocol import Event, Store, StoredUser, read_header
from longrec.serving.stream.catch_up import seen_items
from longrec.serving.stream.id_keys import event_key, item_key, user_key

NO_MODEL = "00" * 32
NEAR = 1e-4
"""Of the standard deviation of scores."""


class Acknowledged:
    """The steps that were acknowledged, and so what must stand in the store.

    Parameters
    ----------
    seed, workers : of the load.
    histories : per user the events that a rebuild puts in front.

    Attributes
    ----------
    next : per worker the number of its next step; where it was killed it may be done.
    resumed : how often a rebuild went on where it was killed.
    """

    def __init__(
        self, seed: int, workers: int, histories: dict[str, list[Event]] | None = None
    ) -> None:
        self.seed, self.histories = seed, histories or {}
        self.next = dict.fromkeys(range(workers), 0)
        self.resumed = 0
        self._logged: dict[tuple[int, str], list[bytes]] = {}  # of worker and user, in order
        self._sent: dict[bytes, tuple[str, Event]] = {}
        self._firsts: dict[bytes, int] = {}  # accepted of the events that all send
        self._retried: set[int] = set()
        self._progress, self._rebuilt, self._anew, self._ending = 0, 0, False, False

    @property
    def starts(self) -> dict[str, int]:
        """`next` as a job takes it."""
        return {str(worker): number for worker, number in self.next.items()}

    def restarted(self, workers: Iterable[int]) -> None:
        """These go on in another process."""
        self._retried.update(workers)
        self._anew = True

    def read(self, lines: Iterable[str]) -> None:
        """Take in what a child said, and whether it can be so."""
        for line in lines:
            word, *rest = line.split(" ")
            assert word != "failed", line
            if word == "progress":
                self._read_progress(*map(int, rest))
            elif word == "rebuilt":
                self._read_rebuilt(*map(int, rest))
            else:
                self._read_step(int(word), *map(int, rest))

    def _read_step(self, worker: int, number: int, accepted: int, tries: int) -> None:
        assert number == self.next[worker]
        step, retry = step_of(self.seed, worker, number), worker in self._retried or tries > 1
        self.next[worker] += 1
        self._retried.discard(worker)
        wanted = len(step.events)
        if step.what == "forget":
            wanted = bool(self._logged.pop((worker, step.user), []))
        for user, item, time, event_id in step.events:
            columns = pack_columns(columns_of(event_id))
            event = Event(time, item_key(item), event_key(event_id), columns)
            self._sent[event.event_id] = user, event
            if sent_by_all(event_id):
                before = self._firsts.get(event.event_id, 0)
                assert before + accepted <= 1, f"{event_id} was accepted twice"
                self._firsts[event.event_id], wanted = before + accepted, accepted
            else:
                self._logged.setdefault((worker, user), []).append(event.event_id)
        assert retry or accepted == wanted, f"{step}: {accepted} accepted"

    def _read_progress(self, done: int, in_all: int) -> None:
        if self._anew and self._ending and done < self._progress:
            self._progress = 0  # it was killed when it was done and had not reported it
        assert done > self._progress, f"a rebuild was at {self._progress}, goes on at {done}"
        self.resumed += self._anew and self._progress > 0
        self._anew, self._progress = False, done
        self._ending = done >= in_all - len(self.next)  # they may be forgotten meanwhile

    def _read_rebuilt(self, imported: int, left_out: int) -> None:
        assert imported + left_out == sum(map(len, self.histories.values()))
        assert not (imported and self._rebuilt), "histories were imported twice"
        self._progress, self._rebuilt = 0, self._rebuilt + 1

    def check(self, store: Store, running: bool = False, done: bool = False) -> None:
        """Hold a store against it.

        running : workers go on: what was acknowledged must be there, more may be.
        done : they have ended: nothing else may be there.
        """
        steps = {worker: step_of(self.seed, worker, n) for worker, n in self.next.items()}
        begun = {event_key(event[3]) for step in steps.values() for event in step.events}
        for user in dict.fromkeys([*SHARED, *map(own_user, self.next), *self.histories]):
            if running and user not in SHARED:  # it may be forgotten just now
                continue
            _, events = log_of(store, user_key(user))
            older = self.histories.get(user, [])
            if self._rebuilt or (events and events[0].event_id is None):
                assert events[: len(older)] == older
                events = events[len(older) :]
            names = [event.event_id for event in events]
            assert None not in names, "older events stand there twice, or of another user"
            assert len(set(names)) == len(names), "an event was logged twice"
            for worker, step in steps.items():
                found = [name for name in names if name.startswith(b"%d-" % worker)]
                wanted = self._logged.get((worker, user), [])
                its = [e for e in step.events if e[0] == user and not sent_by_all(e[3])]
                more = [event_key(event[3]) for event in its]
                if running:
                    assert found[: len(wanted)] == wanted
                elif (step.what, step.user) == ("forget", user) and not done:
                    assert found in ([], wanted)
                else:
                    assert found == wanted or (found == wanted + more and not done)
            if user in SHARED:
                lost = {name for name, (of, _) in self._sent.items() if of == user} - {*names}
                assert not lost, f"acknowledged events were lost: {lost}"
            for event in events:
                known = self._sent.get(event.event_id)
                assert known == (user, event) or (known is None and not done)
                assert known or running or event.event_id in begun, f"nobody sent {event}"


def log_of(store: Store, user: bytes) -> tuple[StoredUser, list[Event]]:
    """A user's whole log, which others may be replacing."""
    while True:
        [stored] = store.read(NO_MODEL, [(user, ())])
        events = store.events(user, stored.log_id, 0, stored.last)
        if len(events) == stored.last:
            return stored, events
        assert store.read(NO_MODEL, [(user, ())])[0].log_id != stored.log_id, "a log lacks events"


def check_after_kill(
    acknowledged: Acknowledged, url: str, durability: Durability, case: str
) -> None:
    """Hold what a kill has left against what was acknowledged, and records against the log."""
    store = open_store(url, durability)
    acknowledged.check(store)
    assert not verify(store).problems
    check_records(store, case)
    store.close()


def check_records(store: Store, case: str) -> int:
    """Hold every record against what the log gives, up to where it is; -> how many there are."""
    rec, engine = recommender_and_engine(case)
    users = store.users(b"", 10_000)
    stored = store.read(engine.digest, [(user, ()) for user in users], seen=True)
    pairs = [(u, one) for u, one in zip(users, stored, strict=True) if one.record is not None]
    stored, fresh = (
        engine.layout.load([one.record for _, one in pairs]),
        engine.layout.load([None] * len(pairs)),
    )
    moves = []
    for (user, one), end in zip(pairs, stored["sequence"].tolist(), strict=True):
        assert end <= one.last
        events = store.events(user, one.log_id, 0, end)
        moves.append([(index_of(event), event.time) for event in events])
    engine.advance(fresh, moves)
    for row, ((_, one), move) in enumerate(zip(pairs, moves, strict=True)):
        check_counts(one, move)
        if any(item for item, _ in move):
            h = (engine.read(records[row : row + 1]) for records in (stored, fresh))
            theirs, ours = (rec.model.score(one)[0, 1:].double() for one in h)
            assert (theirs - ours).abs().max() <= NEAR * ours.std()
    return len(pairs)


def check_counts(stored: StoredUser, move: Sequence[tuple[int, int]]) -> None:
    """Hold what a record counts, and its bitmap, against its events (item index, time)."""
    known = [(item, time) for item, time in move if item]
    times = [time for _, time in known]
    header = read_header(stored.record or b"")
    assert (header.sequence, header.skipped) == (len(move), len(move) - len(known))
    assert header.late == np.sum(times < np.maximum.accumulate(np.array(times, np.int64)))
    assert set(seen_items(stored.seen).tolist()) == {item for item, _ in known}


def index_of(event: Event) -> int:
    item = int(event.item)
    return 0 if item == UNKNOWN else item - FIRST + 1


def finish(
    acknowledged: Acknowledged,
    url: str,
    durability: Durability,
    case: str,
    histories: str | None = None,
) -> None:
    """Let all end what they were at, then hold all that is kept against the log."""
    acknowledged.restarted(acknowledged.next)
    ends = {str(worker): number + 20 for worker, number in acknowledged.next.items()}
    lines: list[str] = []
    stream_jobs.run_workers(
        lines.append, url, durability, case, acknowledged.seed, acknowledged.starts, ends, histories
    )
    acknowledged.read(lines)
    with stream_jobs.small_stream(case, url, durability) as stream:
        store = stream.store
        acknowledged.check(store, done=True)
        assert not verify(store).problems
        assert check_records(store, case) > len(SHARED)
        for user in SHARED:
            history = [(int(e.item), e.time) for e in log_of(store, user_key(user))[1]]
            check_best(case, stream.recommend(user, exclude_seen=False), history, seen=False)
            check_best(case, stream.recommend(user), history)
