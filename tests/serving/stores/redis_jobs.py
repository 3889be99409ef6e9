"""What children do to a Redis store, beside each other or before they are killed (forking.py)."""

from __future__ import annotations

import hashlib
import random

from longrec.serving.stores.protocol import HEADER, Append, Event, read_header
from longrec.serving.stores.redis_store import RedisStore

DIGEST = "ab" * 32
USERS = [b"u%d" % number for number in range(5)]
SIZE = 2000


def chained(record: bytes | None, events: list[Event]) -> bytes:
    """The record after some events: a digest of all events so far, so that it shows which."""
    header = read_header(record) if record else None
    sequence, version = (header.sequence, header.version) if header else (0, 0)
    digest = record[HEADER.size : HEADER.size + 32] if record else bytes(32)
    for event in events:
        digest = hashlib.sha256(digest + repr(event).encode()).digest()
    packed = HEADER.pack(b"LRU1", SIZE, b"digest..", sequence + len(events), version + 1, 0, 0)
    return packed + digest + bytes(SIZE - HEADER.size - 32)


def send(store, events):
    """Log events (user -> events) as a stream that has read the store; -> what became of them."""
    found = dict(zip(events, store.read(DIGEST, [(user, ()) for user in events]), strict=True))
    appends = []
    for user, some in events.items():
        kept = found[user]
        header = read_header(kept.record) if kept.record else None
        done, version = (header.sequence, header.version) if header else (0, 0)
        missed = store.events(user, kept.born, done, kept.last - done)  # caught up by replay
        after = chained(kept.record, [*missed, *some])
        seen = [event.time % 5000 for event in some]
        appends.append(Append(user, kept.born, kept.last, version, some, after, seen))
    return dict(zip(events, store.append(DIGEST, appends), strict=True))


def make(writer, number, named=True):
    """An event of a writer; its time tells it apart where it has no id."""
    name = b"%d-%d" % (writer, number)
    return Event(writer * 10**7 + number, b"item" + name, name if named else None)


def go_on(say, url, durability, writer, number, seed):
    """Log events from a number on for ever, in groups; say which were acknowledged."""
    store, dice, began = RedisStore.open(url, durability), random.Random(seed), number
    while True:
        group = range(number, number + (1 if number < began + 12 else dice.randint(1, 12)))
        events = {}
        for one in group:
            events.setdefault(USERS[one % len(USERS)], []).append(make(writer, one))
        send(store, events)
        number = group.stop
        say(str(number))


def rounds(say, url, writer, many):
    """Log events of all users at once, beside another process; say their numbers in the logs."""
    store = RedisStore.open(url, "power")
    say("open")
    while "go" not in store.meta():
        pass
    for number in range(many):
        events = {user: [make(writer, 10 * number + n)] for n, user in enumerate(USERS)}
        done = send(store, events)
        assert all(one.new == (True,) for one in done.values())
        say(" ".join(str(one.last) for one in done.values()))
