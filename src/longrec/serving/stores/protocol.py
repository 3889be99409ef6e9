"""What a store of users is: the log of their events, which is the truth, and caches made of it.

A store keeps per user

    log       events in commit order, numbered from 1: (time, item, event id, further columns)
    ids       the event ids in the log, so that a retry is known as one, each with a digest of its
              event, so that another event under the same id is known as such
    records   per model (`digest`): what it makes of the log, a cache of fixed size
    seen      per model: a bitmap of the item indices in the log, bit i for item index i

A record tells in its first bytes which event of the log it has reached and how often it was written
(`Header`); one that is behind its log catches up by replay, so losing a record loses nothing. Items
stand in the log as the caller's ids, not as a model's indices: the log outlives every model.

All that is kept has a checksum, over whose it is as well (checks.py). What does not fit its own is
damaged, is counted in the store's `damage`, and is never given out: of a record None, of an event
`DAMAGED`.

Every method is atomic for each user, and what it changed is as durable as `durability` says when
it returns. All may be called from any thread.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from longrec.core.choices import Durability
from longrec.core.errors import DataError, LongrecError
from longrec.serving.stores.damage import Damage

SCHEMA = 3
"""Version of what stores hold: since 3 with checksums. Older ones are carried over by
`longrec store upgrade`; a store of a newer version is refused."""


LOG_ID, RUNS = 2**53 - 1, 2**10
"""The bits of a log's id that are the log's own, and how many runs of a server the others tell
apart: what was read in another one counts as replaced, and is read again."""


class StoreUnavailable(LongrecError):
    """The store cannot be reached. An event that was being written may be in the log or not."""


class StoreDamaged(DataError):
    """The engine of a store has met damage in its files: nothing of what was asked for was done."""


class UserDamaged(DataError):
    """What is kept of one user is damaged so far that not even the log can be found."""


class StoreFull(LongrecError):
    """The store has no room: what was being written is not in it; with room it works again."""


class Event(NamedTuple):
    """An event as it is logged: time in seconds, the item's id, and the caller's event id.

    columns : further columns as `packed_columns.pack_columns` gives them, b"" if there are none.
    """

    time: int
    item: bytes
    event_id: bytes | None
    columns: bytes = b""


DAMAGED = Event(-(2**63), b"", None)
"""In place of an event that is damaged or missing. To a model it is one of an item that it does not
know: it has its number in the log, and a record skips it."""


class Header(NamedTuple):
    """The first bytes of every record.

    sequence : number of the last event of the log that the record has taken in (or skipped);
    version : how often this record was written, from 1: what a writer must have read to replace it;
    skipped : events of items that the model did not know; late : events before the one before them.
    """

    sequence: int
    version: int
    skipped: int
    late: int


HEADER = struct.Struct("<4sI8sqqqq")
"""Magic and layout version, size in bytes, start of the state digest; then `Header`."""


class StoredUser(NamedTuple):
    """What a store has of one user for one model.

    log_id : of this user's log, another one after the user was forgotten or the log rewritten;
        0: there is no such user;
    last : number of the last event in the log, 0 if there is none;
    record : bytes, or None;
    seen : bitmap in little-endian bit order, as long as needed (b"" if not asked for);
    known : per event id asked about what `checks.event_digest` gave of the event that was logged
        with it, b"" where an earlier longrec logged it, or None: it is not in the log;
    version : what a writer must have read to replace the record, 0 if there is none;
    damaged : "record" or "bitmap" where that is damaged, in which case neither is given.
    """

    log_id: int
    last: int
    record: bytes | None
    seen: bytes
    known: tuple[bytes | None, ...]
    version: int = 0
    damaged: Literal["", "record", "bitmap"] = ""


class Append(NamedTuple):
    """Events of one user, and the record that holds after them.

    log_id, last, version : of the log and the record (0: none) that `record` was made from;
    events : at least one, in order;
    record : bytes, or None where the writer made none;
    seen : item indices to add to the bitmap.
    """

    user: bytes
    log_id: int
    last: int
    version: int
    events: Sequence[Event]
    record: bytes | None
    seen: Sequence[int]


class Appended(NamedTuple):
    """What became of an Append.

    new : per event, False where its id was in the log already (it was not logged again);
    last : number of the last event in the log now;
    current : whether the record was written, which needs that nobody else wrote meanwhile and that
        every event was new.
    """

    new: tuple[bool, ...]
    last: int
    current: bool


class Put(NamedTuple):
    """A record made by replay, to be written if the log is the same and nobody else wrote one.

    seen : the whole bitmap in little-endian bit order, replacing the one that stands there.
    """

    user: bytes
    log_id: int
    version: int
    record: bytes
    seen: bytes


class Rewrite(NamedTuple):
    """A whole new log of one user, if the old one still ends at `last` (0, log_id 0: no user).

    events : none of them where the user shall be forgotten.
    """

    user: bytes
    log_id: int
    last: int
    events: Sequence[Event]


class Totals(NamedTuple):
    """Figures of a whole store: users, logged events, records per digest, bytes taken."""

    users: int
    events: int
    records: dict[str, int]
    bytes: int


T = TypeVar("T")


class Store(Protocol):
    """The interface of stores. `digest` is the hex digest of a model's states."""

    @property
    def url(self) -> str:
        """Where it is, without credentials: fit to be shown."""

    @property
    def durability(self) -> Durability: ...

    @property
    def folder(self) -> Path | None:
        """Where files may stand that are made of the log; None: nowhere."""

    @property
    def parts(self) -> int:
        """Of how many servers it is: one may be away while others answer."""

    def part_of(self, user: bytes) -> int:
        """On which of them, from 0, a user is."""

    @property
    def damage(self) -> Damage:
        """What was found damaged since the store was opened."""

    def read(
        self, digest: str, asked: Sequence[tuple[bytes, Sequence[bytes]]], seen: bool = False
    ) -> list[StoredUser]:
        """What is kept of users, each asked for with event ids that may be in its log.

        Raises
        ------
        UserDamaged
            When of a user the id or the length of the log, or which event ids are in it, cannot be
            told.
        """

    def events(self, user: bytes, log_id: int, after: int, limit: int) -> list[Event]:
        """At most `limit` events numbered after + 1, ...; fewer only at the log's end.

        One that is damaged, or missing, is `DAMAGED`. None of them where the user's log is not
        `log_id` any more.
        """

    def append(self, digest: str, appends: Sequence[Append]) -> list[Appended]:
        """Log events and replace records; of one user there is one Append at most.

        Raises
        ------
        StoreFull, StoreUnavailable
        """

    def put(self, digest: str, puts: Sequence[Put]) -> int:
        """Write records made by replay; -> how many were written."""

    def rewrite(self, rewrites: Sequence[Rewrite]) -> list[bool]:
        """Replace logs, with new ids; the user's records and bitmaps of all models go.

        -> per Rewrite, whether it was done.
        """

    def forget(self, user: bytes) -> bool:
        """Delete log, event ids, records and bitmaps of a user; -> whether there was one."""

    def users(self, after: bytes, limit: int) -> list[bytes]:
        """At most `limit` users in byte order, those after `after` (b"": from the first)."""

    def meta(self) -> dict[str, Any]:
        """What is kept of the store itself; {} in a new one."""

    def change_meta(self, change: Callable[[dict[str, Any]], T]) -> T:
        """Let `change` change that in place, as one atomic step (it may be called again)."""

    def drop(self, digest: str) -> int:
        """Delete all records and bitmaps of a model; -> how many records."""

    def totals(self) -> Totals:
        """Figures of the whole store."""

    def check_ready(self) -> None:
        """See that the store answers, and that there is room for more.

        Raises
        ------
        StoreFull, StoreUnavailable
        """

    def compact(self) -> tuple[int, int]:
        """Give back the room of what was deleted: bytes before and after."""

    def inspect(self) -> list[str]:
        """What is wrong with the store beneath all users, in words."""

    def close(self) -> None:
        """Release it; closing twice is nothing."""


def by_part(store: Store, users: Iterable[bytes]) -> dict[int, list[int]]:
    """Per server of a store the places of those of some users who are on it."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, user in enumerate(users):
        places[store.part_of(user)].append(place)
    return places


def read_header(record: bytes) -> Header:
    """The header of a record's bytes.

    Raises
    ------
    DataError
        When these are no record.
    """
    if len(record) < HEADER.size or record[:3] != b"LRU":
        raise DataError(
            f"a user's record of {len(record)} bytes is none of longrec's: rebuild the records "
            "(stream.rebuild(), or delete the model's records with `longrec store compact`)"
        )
    return Header(*HEADER.unpack_from(record)[3:])


def version_of(record: bytes | memoryview | None) -> int:
    """What a writer must have read to replace a record; 0 where there is none, or none to read."""
    try:
        return 0 if record is None else read_header(bytes(record[: HEADER.size])).version
    except DataError:
        return 0


def next_version(version: int) -> int:
    """That of the record that replaces one of some version, also where damage made that absurd."""
    return version + 1 if 0 <= version < 2**62 else 1


def check_not_newer(meta: dict[str, Any], url: str) -> None:
    """Raise DataError where a store's meta is of a newer schema than this longrec knows."""
    if meta.get("schema", SCHEMA) > SCHEMA:
        raise DataError(
            f"{url} has schema {meta['schema']}, this longrec reads {SCHEMA}: upgrade longrec "
            "(nothing was changed)"
        )


def check_schema(meta: dict[str, Any], url: str) -> None:
    """Raise DataError where a store's meta is not of the schema that this longrec reads."""
    check_not_newer(meta, url)
    if "upgrading" in meta:
        raise DataError(
            f"{url} is half carried over: run `longrec store upgrade {url}` again, which goes on"
        )
    schema = meta.get("schema", SCHEMA)
    if schema < SCHEMA:
        raise DataError(
            f"{url} is of an earlier longrec, without checksums (schema {schema}, this longrec "
            f"reads {SCHEMA}): carry it over with `longrec store upgrade {url}`, while nobody uses "
            "it (nothing was changed)"
        )


def check_whole(meta: dict[str, Any], url: str) -> None:
    """Raise DataError where a restore into a store, told by its meta, has not ended."""
    if "restoring" in meta:
        raise DataError(
            f"{url} is half restored: run the same `longrec store restore FOLDER URL` again, which "
            "goes on where it was interrupted"
        )
