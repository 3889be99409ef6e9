"""Whether a store is whole: logs, event ids, records, and what the log itself gives."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from longrec.core.errors import DataError, UsageError
from longrec.serving.maintenance.retention import models_of
from longrec.serving.stores.log_reader import (
    NO_MODEL,
    LogDamaged,
    LogReplaced,
    read_log,
    user_pages,
)
from longrec.serving.stores.protocol import (
    HEADER,
    Header,
    Store,
    StoredUser,
    check_whole,
    read_header,
)

if TYPE_CHECKING:
    from longrec.serving.maintenance.replay import Replay

NAMED = 100
"""Users that are named of each problem."""

REBUILD = "rebuild the records: longrec store rebuild URL RUN"
RESTORE = "restore a backup into an empty store: longrec store restore FOLDER URL"
WORDS = {
    "lacking": ("logs that lack events", RESTORE),
    "ids": ("logs with event ids that are not known as such, or stand there twice", RESTORE),
    "unreadable": ("records that cannot be read", REBUILD),
    "ahead": ("records that are ahead of their log", REBUILD),
    "differing": ("records that are not what the log gives", REBUILD),
    "bitmap": ("bitmaps of seen items that are not those of the log", REBUILD),
    "users": ("users more or fewer than the store counts", RESTORE),
    "events": ("events more or fewer than the store counts", RESTORE),
    "records": ("records more or fewer than the store counts", REBUILD),
}
"""Per kind of problem what is counted, and the mend."""


class Problem(NamedTuple):
    """So many of some kind (see `WORDS`), and the first users of them."""

    kind: str
    number: int
    users: tuple[bytes, ...] = ()

    @property
    def words(self) -> str:
        return WORDS[self.kind][0]

    @property
    def mend(self) -> str:
        return WORDS[self.kind][1]


@dataclass
class Verified:
    """What was found.

    Attributes
    ----------
    users, events : how many were checked.
    records, behind : per model's digest; those behind their log catch up when they are next used.
    compared : records that were compared with a replay of the log.
    outdated : of these the ones that skipped items which the recommender knows by now.
    problems : none in a whole store.
    """

    users: int = 0
    events: int = 0
    records: Counter[str] = field(default_factory=Counter)
    behind: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    outdated: int = 0
    problems: tuple[Problem, ...] = ()


def verify(
    store: Store,
    replay: Replay | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Check a store, beside whoever writes to it.

    Every log has its events 1, 2, ..., its event ids are known, once each, and records are
    readable and not ahead of their log.

    Parameters
    ----------
    store : Store
    replay : Replay or None
        Of a recommender: its records are compared with what the log gives.
    progress : callable or None
        Called with (events checked, events in all).

    Raises
    ------
    DataError
        When the store is half restored.
    """
    meta = store.meta()
    check_whole(meta, store.url)
    before = store.totals()
    if replay is not None and replay.digest not in {*before.records, *meta.get("models", {})}:
        names = [f"{m['name']} ({m['digest'][:16]})" for m in models_of(meta, before.records)]
        raise UsageError(
            f"{store.url} has no records of this {replay.engine.name} ({replay.digest[:16]}), only "
            f"of {', '.join(names) or 'no model'}: name the run that it serves"
        )
    check = _Check(store, {*before.records, *filter(None, [meta.get("current")])}, replay)
    found = check.found
    for page in user_pages(store):
        while page:  # those whose log was replaced meanwhile once more
            page = check.check_users(page)
            if progress:
                progress(found.events, max(before.events, found.events))
    problems = [
        Problem(kind, check.counts[kind], tuple(check.users[kind]))
        for kind in WORDS
        if check.counts[kind]
    ]
    after = store.totals()
    unchanged = before._replace(bytes=0) == after._replace(bytes=0)
    if unchanged and not check.counts["lacking"]:
        differences = {
            "users": abs(after.users - found.users),
            "events": abs(after.events - found.events),
            "records": sum(abs(n - found.records[digest]) for digest, n in after.records.items()),
        }
        problems += [Problem(kind, number) for kind, number in differences.items() if number]
    found.problems = tuple(problems)
    return found


class _Check:
    """What was found so far: figures, and per kind of problem its count and some users."""

    def __init__(self, store: Store, digests: Collection[str], replay: Replay | None) -> None:
        self.store, self.digests, self.replay = store, digests, replay
        self.sizes = {} if replay is None else {replay.digest: replay.engine.layout.size}
        self.found = Verified()
        self.counts, self.users = Counter[str](), defaultdict[str, list[bytes]](list)

    def check_users(self, page: Sequence[bytes]) -> list[bytes]:
        """Check some users; -> those whose log was replaced meanwhile, of whom nothing counts."""
        asked = [(user, ()) for user in page]
        by_digest = {
            digest: self.store.read(digest, asked, seen=True)
            for digest in [*self.digests, NO_MODEL]
        }
        replaced, comparable = [], []
        for number, user in enumerate(page):
            of_user = {digest: stored[number] for digest, stored in by_digest.items()}
            log = of_user[NO_MODEL]
            if not log.log_id:
                continue
            try:
                if any(stored.log_id != log.log_id for stored in of_user.values()):
                    raise LogReplaced
                whole = self._check_log(user, log)
            except LogReplaced:
                replaced.append(user)
                continue
            readable = self._check_records(user, of_user)
            if whole and self.replay is not None and self.replay.digest in readable:
                comparable.append((user, of_user[self.replay.digest]))
            self.found.users += 1
            self.found.events += log.last
        if self.replay is not None:
            kinds = self.replay.compare(self.store, comparable)
            self.found.compared += len(kinds) - kinds.count("replaced")
            self.found.outdated += kinds.count("outdated")
            for (user, _), kind in zip(comparable, kinds, strict=True):
                if kind in WORDS:
                    self._note(kind, user)
        return replaced

    def _note(self, kind: str, user: bytes) -> None:
        self.counts[kind] += 1
        if len(self.users[kind]) < NAMED:
            self.users[kind].append(user)

    def _check_log(self, user: bytes, stored: StoredUser) -> bool:
        """Whether the events are all there; their ids are looked up besides."""
        earlier, ids_wrong = set[bytes](), False
        try:
            for events in read_log(self.store, user, stored):
                ids = [event.event_id for event in events if event.event_id is not None]
                [now] = self.store.read(NO_MODEL, [(user, ids)])
                if now.log_id != stored.log_id:
                    raise LogReplaced
                once = len(set(ids)) == len(ids) and earlier.isdisjoint(ids)
                ids_wrong |= not all(now.known) or not once
                earlier.update(ids)
        except LogDamaged:
            self._note("lacking", user)
            return False
        if ids_wrong:
            self._note("ids", user)
        return True

    def _check_records(self, user: bytes, stored: dict[str, StoredUser]) -> set[str]:
        """Digests of the models whose records of the user can be read and are of its log."""
        readable = set()
        for digest in self.digests:
            record, last = stored[digest].record, stored[digest].last
            if record is None:
                self.found.behind[digest] += last > 0
                continue
            self.found.records[digest] += 1
            header = _whole_header(record, digest)
            if header is None or len(record) != self.sizes.get(digest, len(record)):
                self._note("unreadable", user)
            elif header.sequence > last:
                self._note("ahead", user)
            else:
                self.found.behind[digest] += header.sequence < last
                readable.add(digest)
        return readable


def _whole_header(record: bytes, digest: str) -> Header | None:
    """A record's header; None where it is no whole record of this model."""
    try:
        header = read_header(record)
    except DataError:
        return None
    _, size, model = HEADER.unpack_from(record)[:3]
    whole = size == len(record) and model == bytes.fromhex(digest)[:8]
    possible = header.sequence >= 0 and header.version > 0
    return header if whole and possible else None
