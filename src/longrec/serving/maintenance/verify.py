"""Whether a store is whole: logs, event ids, records, and what the log itself gives."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from longrec.core.errors import DataError, UsageError
from longrec.core.format import listed
from longrec.serving.maintenance.retention import models_of
from longrec.serving.stores.checks import event_digest
from longrec.serving.stores.encoding import pack_event
from longrec.serving.stores.log_reader import (
    NO_MODEL,
    LogReplaced,
    read_log,
    read_users,
    user_pages,
)
from longrec.serving.stores.protocol import (
    DAMAGED,
    HEADER,
    Header,
    Store,
    StoredUser,
    UserDamaged,
    check_whole,
    read_header,
)

if TYPE_CHECKING:
    from longrec.serving.maintenance.replay import Replay

NAMED = 100
"""Users that are named of each problem."""

REBUILD = "rebuild the records: longrec store rebuild URL RUN"
RESTORE = "restore a backup into an empty store: longrec store restore FOLDER URL"
SENT_AGAIN = (
    "send again what was observed since, with event ids, or restore a backup; then "
    "longrec store verify URL --accept-losses"
)
WORDS = {
    "pages": ("things wrong with the store beneath all users", RESTORE),
    "losses": ("times that the store lost what it had acknowledged", SENT_AGAIN),
    "user": ("users whose logs cannot be found", RESTORE),
    "event": ("events that are damaged or missing, and skipped", RESTORE),
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
    """So many of some kind (see `WORDS`), and the first users of them.

    events : per user the number of an event, where the problem is one of events.
    notes : what there is to say of the first ones, where the problem is of no user.
    """

    kind: str
    number: int
    users: tuple[bytes, ...] = ()
    events: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_damage(self) -> bool:
        """Whether it tells of users of whom something is lost."""
        return self.kind in ("user", "event")

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
    readable and not ahead of their log; all fit their checksums. And the store beneath has no
    damage (`Store.inspect`).

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
    notes = store.inspect()
    before = store.totals()
    if replay is not None and replay.digest not in {*before.records, *meta.get("models", {})}:
        names = [f"{m['name']} ({m['digest'][:16]})" for m in models_of(meta, before.records)]
        raise UsageError(
            f"{store.url} has no records of this {replay.engine.name} ({replay.digest[:16]}), only "
            f"of {listed(names, 'no model')}: name the run that it serves"
        )
    check = _Check(store, {*before.records, *filter(None, [meta.get("current")])}, replay)
    found = check.found
    for page in user_pages(store):
        while page:  # those whose log was replaced meanwhile once more
            page = check.check_users(page)
            if progress:
                progress(found.events, max(before.events, found.events))
    losses = [f"{loss['found']}: {_what(loss)}" for loss in meta.get("losses", ())]
    problems = [
        Problem(kind, len(some), notes=tuple(some[:NAMED]))
        for kind, some in (("pages", notes), ("losses", losses))
        if some
    ]
    problems += [
        Problem(kind, check.counts[kind], tuple(check.users[kind]), tuple(check.events[kind]))
        for kind in WORDS
        if check.counts[kind]
    ]
    after, unfound = store.totals(), check.counts["user"]
    lacking = unfound + check.counts["event"]
    unchanged = before._replace(bytes=0) == after._replace(bytes=0)
    if unchanged:
        differences = {
            "users": abs(after.users - found.users - unfound),
            "events": 0 if lacking else abs(after.events - found.events),
            "records": 0
            if unfound
            else sum(abs(n - found.records[digest]) for digest, n in after.records.items()),
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
        self.events = defaultdict[str, list[int]](list)

    def check_users(self, page: Sequence[bytes]) -> list[bytes]:
        """Check some users; -> those whose log was replaced meanwhile, of whom nothing counts."""
        by_digest = {
            digest: dict(read_users(self.store, digest, page, seen=True))
            for digest in [*self.digests, NO_MODEL]
        }
        replaced, comparable = [], []
        for user in page:
            of_user = {d: stored[user] for d, stored in by_digest.items() if user in stored}
            if len(of_user) < len(by_digest):
                self._note("user", user)
                continue
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

    def _note(self, kind: str, user: bytes, event: int | None = None) -> None:
        self.counts[kind] += 1
        if len(self.users[kind]) < NAMED:
            self.users[kind].append(user)
            self.events[kind] += [] if event is None else [event]

    def _check_log(self, user: bytes, stored: StoredUser) -> bool:
        """Whether the events are all there; their ids are looked up besides."""
        earlier, ids_wrong, whole, number = set[bytes](), False, True, 0
        for events in read_log(self.store, user, stored):
            for event in events:
                number += 1
                if event is DAMAGED:
                    self._note("event", user, number)
                    whole = False
            named = [(e.event_id, pack_event(e)) for e in events if e.event_id is not None]
            ids = [event_id for event_id, _ in named]
            digests = [event_digest(user, packed) for _, packed in named]
            try:
                [now] = self.store.read(NO_MODEL, [(user, ids)])
            except UserDamaged:  # which ids there are cannot be told
                ids_wrong = True
                continue
            if now.log_id != stored.log_id:
                raise LogReplaced
            once = len(set(ids)) == len(ids) and earlier.isdisjoint(ids)
            fits = all(a in (b"", b) for a, b in zip(now.known, digests, strict=True))
            ids_wrong |= not fits or not once
            earlier.update(ids)
        if ids_wrong:
            self._note("ids", user)
        return whole

    def _check_records(self, user: bytes, stored: dict[str, StoredUser]) -> set[str]:
        """Digests of the models whose records of the user can be read and are of its log."""
        readable = set()
        for digest in self.digests:
            record, last = stored[digest].record, stored[digest].last
            if damaged := stored[digest].damaged:
                self.found.records[digest] += 1
                self._note("unreadable" if damaged == "record" else "bitmap", user)
                continue
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


def _what(loss: dict[str, Any]) -> str:
    """What a store lost, in words."""
    if loss["writes"]:
        return f"{loss['writes']:,} writes"
    return "nobody knows what" if loss.get("unknown") else "what was not on the disk"
