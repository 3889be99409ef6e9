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

SHOWN = 100
"""Users remembered of each problem."""

REBUILD = "rebuild the records: recommender.open_stream(URL).rebuild()"
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


@dataclass(frozen=True)
class Verified:
    """What was found.

    Attributes
    ----------
    users, events : how many were checked.
    records, behind : per model's digest; those behind their log catch up when they are next used.
    compared : records held against a replay of the log.
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
        Of a recommender: its records are held against what the log gives.
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
    for page in user_pages(store):
        while page:  # those whose log was replaced meanwhile once more
            page = check.users(page)
            if progress:
                progress(check.events, max(before.events, check.events))
    problems = [
        Problem(kind, check.found[kind], tuple(check.some[kind]))
        for kind in WORDS
        if check.found[kind]
    ]
    after = store.totals()
    still = before._replace(bytes=0) == after._replace(bytes=0)
    if still and not check.found["lacking"]:
        records = sum(abs(n - check.records[digest]) for digest, n in after.records.items())
        for kind, number in (
            ("users", abs(after.users - check.checked)),
            ("events", abs(after.events - check.events)),
            ("records", records),
        ):
            if number:
                problems.append(Problem(kind, number))
    return Verified(
        *(check.checked, check.events, check.records, check.behind),
        *(check.compared, check.outdated, tuple(problems)),
    )


class _Check:
    """What was found so far."""

    def __init__(self, store: Store, digests: Collection[str], replay: Replay | None) -> None:
        self.store, self.digests, self.replay = store, digests, replay
        self.found, self.some = Counter[str](), defaultdict[str, list[bytes]](list)
        self.records, self.behind = Counter[str](), Counter[str]()
        self.sizes = {} if replay is None else {replay.digest: replay.engine.layout.size}
        self.checked = self.events = self.compared = self.outdated = 0

    def users(self, page: Sequence[bytes]) -> list[bytes]:
        """Check some users; -> those whose log was replaced meanwhile, of whom nothing counts."""
        asked = [(user, ()) for user in page]
        stored = {
            digest: self.store.read(digest, asked, seen=True)
            for digest in [*self.digests, NO_MODEL]
        }
        again, comparable = [], []
        for number, user in enumerate(page):
            of_user = {digest: stored[digest][number] for digest in stored}
            found = of_user[NO_MODEL]
            if not found.log_id:
                continue
            try:
                if any(one.log_id != found.log_id for one in of_user.values()):
                    raise LogReplaced
                whole = self._log(user, found)
            except LogReplaced:
                again.append(user)
                continue
            readable = self._records(user, of_user)
            if whole and self.replay is not None and self.replay.digest in readable:
                comparable.append((user, of_user[self.replay.digest]))
            self.checked += 1
            self.events += found.last
        if self.replay is not None:
            kinds = self.replay.compare(self.store, comparable)
            for (user, _), kind in zip(comparable, kinds, strict=True):
                self.compared += kind != "gone"
                self.outdated += kind == "outdated"
                if kind in WORDS:
                    self._note(kind, user)
        return again

    def _note(self, kind: str, user: bytes) -> None:
        self.found[kind] += 1
        if len(self.some[kind]) < SHOWN:
            self.some[kind].append(user)

    def _log(self, user: bytes, stored: StoredUser) -> bool:
        """Whether the events are all there; their ids are looked up besides."""
        once: set[bytes] = set()
        wrong = False
        try:
            for events in read_log(self.store, user, stored):
                ids = [event.event_id for event in events if event.event_id is not None]
                known = self.store.read(NO_MODEL, [(user, ids)])[0]
                if known.log_id != stored.log_id:
                    raise LogReplaced
                wrong |= not all(known.known) or not once.isdisjoint(ids)
                wrong |= len(set(ids)) < len(ids)
                once.update(ids)
        except LogDamaged:
            self._note("lacking", user)
            return False
        if wrong:
            self._note("ids", user)
        return True

    def _records(self, user: bytes, stored: dict[str, StoredUser]) -> set[str]:
        """Digests of the models whose records of the user can be read and are of its log."""
        good = set()
        for digest in self.digests:
            record, last = stored[digest].record, stored[digest].last
            if record is None:
                self.behind[digest] += last > 0
                continue
            self.records[digest] += 1
            header = header_of(record, digest)
            if header is None or len(record) != self.sizes.get(digest, len(record)):
                self._note("unreadable", user)
            elif header.sequence > last:
                self._note("ahead", user)
            else:
                self.behind[digest] += header.sequence < last
                good.add(digest)
        return good


def header_of(record: bytes, digest: str) -> Header | None:
    """A record's header; None where it is no whole record of this model."""
    try:
        header = read_header(record)
    except DataError:
        return None
    _, size, model = HEADER.unpack_from(record)[:3]
    whole = size == len(record) and model == bytes.fromhex(digest)[:8]
    possible = header.sequence >= 0 and header.version > 0
    return header if whole and possible else None
