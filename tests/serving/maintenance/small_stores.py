"""Stores with a few users, and what tests of backups hold them against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from longrec.serving.stores.checks import SEAL, seal
from longrec.serving.stores.protocol import (
    HEADER,
    Append,
    Event,
    Put,
    Store,
    StoredUser,
)

MODEL, OTHER = "ab" * 32, "cd" * 32
EVENTS = [Event(n, b"item%d" % (n % 7), b"id%d" % n if n % 3 else None) for n in range(20)]


def record(
    user: bytes, sequence: int, version: int = 1, digest: str = MODEL, extra: bytes = b"state"
) -> bytes:
    """The bytes of a user's record that is a header and little else."""
    size = HEADER.size + len(extra) + SEAL.size
    start = bytes.fromhex(digest)[:8]
    head = HEADER.pack(b"LRU2", size, start, sequence, version, 0, 0)
    return seal(user, head + extra + bytes(SEAL.size))


def fill(store: Store, logs: dict[bytes, Sequence[Event]], digest: str = MODEL) -> None:
    """Log events of users, each with a record that has taken in all of them."""
    for user, events in logs.items():
        stored = store.read(digest, [(user, ())])[0]
        version = stored.version
        new = record(user, stored.last + len(events), version + 1, digest)
        store.append(
            digest, [Append(user, stored.log_id, stored.last, version, list(events), new, [1, 9])]
        )


def serve(store: Store, digest: str = MODEL, name: str = "elastic") -> None:
    """Make a store one of a model, as opening a stream does."""

    def change(meta: dict[str, Any]) -> None:
        models = meta.setdefault("models", {})
        models[digest] = {"name": name, "catalogs": [{"version": "00", "items": 3, "rows": 3}]}
        meta["current"] = digest

    store.change_meta(change)


def content_of(store: Store, digest: str = MODEL) -> dict[bytes, tuple[StoredUser, list[Event]]]:
    """All that is stored of every user, but for the log's id, which is the store's own."""
    found = {}
    for user in store.users(b"", 10**6):
        log_id = store.read(digest, [(user, ())])[0].log_id
        events = store.events(user, log_id, 0, 10**6)
        ids = [event.event_id for event in events if event.event_id is not None]
        stored = store.read(digest, [(user, ids)], seen=True)[0]
        found[user] = stored._replace(log_id=0), events
    return found


def logs_of(store: Store) -> dict[bytes, tuple[StoredUser, list[Event]]]:
    """What a backup brings back of every user: the log, and no records."""
    return content_of(store, "0" * 64)


def put_record(store: Store, user: bytes, new: bytes, digest: str = MODEL) -> None:
    """Put some bytes in the place of a user's record."""
    stored = store.read(digest, [(user, ())])[0]
    assert store.put(digest, [Put(user, stored.log_id, stored.version, new, b"\x02")]) == 1


binary = st.binary(min_size=1, max_size=12)
logs = st.dictionaries(
    binary,
    st.lists(
        st.builds(Event, st.integers(-(2**62), 2**62), binary, st.none()),
        min_size=1,
        max_size=9,
    ).flatmap(
        lambda events: st.lists(st.none() | binary, min_size=len(events), max_size=len(events)).map(
            lambda ids: _with_ids(events, ids)
        )
    ),
    max_size=6,
)
"""Logs of a few users; the ids of a user's events are different ones."""


def _with_ids(events: Sequence[Event], ids: Sequence[bytes | None]) -> list[Event]:
    taken: set[bytes] = set()
    named = []
    for event, name in zip(events, ids, strict=True):
        named.append(event._replace(event_id=None if name in taken else name))
        taken |= set() if name is None else {name}
    return named
