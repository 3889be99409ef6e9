"""What processes do to a store, beside each other or before they are killed (see forking.py).

python store_jobs.py URL DURABILITY CALLS    `numbered_calls`, to be traced from outside
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time

from longrec.serving.stores import lmdb_folder, lmdb_store, redis_store  # noqa: F401
from longrec.serving.stores.checks import seal
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import (
    HEADER,
    Append,
    Event,
    StoreFull,
    StoreUnavailable,
    read_header,
)

DIGEST = "ab" * 32
USERS = [b"u%d" % number for number in range(5)]
RECORD_SIZE = 2000


def record_after(user: bytes, record: bytes | None, events: list[Event]) -> bytes:
    """A user's record after some more events: a digest of all so far, so that it shows which."""
    header = read_header(record) if record else None
    sequence, version = (header.sequence, header.version) if header else (0, 0)
    digest = record[HEADER.size : HEADER.size + 32] if record else bytes(32)
    for event in events:
        digest = hashlib.sha256(digest + repr(event).encode()).digest()
    head = HEADER.pack(b"LRU2", RECORD_SIZE, b"digest..", sequence + len(events), version + 1, 0, 0)
    return seal(user, head + digest + bytes(RECORD_SIZE - HEADER.size - 32))


def send(store, events):
    """Log events (user -> events) as a stream that has read the store; -> per user the result."""
    found = dict(zip(events, store.read(DIGEST, [(user, ()) for user in events]), strict=True))
    appends = []
    for user, new in events.items():
        read = found[user]
        header = read_header(read.record) if read.record else None
        reached, version = (header.sequence, header.version) if header else (0, 0)
        missed = store.events(
            user, read.log_id, reached, read.last - reached
        )  # caught up by replay
        record = record_after(user, read.record, [*missed, *new])
        items = [event.time % 5000 for event in new]
        appends.append(Append(user, read.log_id, read.last, version, new, record, items))
    return dict(zip(events, store.append(DIGEST, appends), strict=True))


def event_of(writer, number, named=True, size=0):
    """An event of a writer; its time tells it apart where it has no id."""
    name = b"%d-%d" % (writer, number)
    item = b"item" + name + bytes(size)
    return Event(writer * 10**7 + number, item, name if named else None)


def send_until(stop, store, writer, sent, users):
    """Log a writer's events of two users, half of them with ids, until `stop`, which it sets at its
    own end; sent[writer] counts them."""
    try:
        while not stop.is_set():
            some = [event_of(writer, sent[writer] + n, named=n % 2 > 0) for n in range(4)]
            done = send(store, dict(zip(users, (some[:2], some[2:]), strict=True)))
            assert all(one.new == (True, True) for one in done.values())
            sent[writer] += 4
    finally:
        stop.set()


def send_numbers(store, numbers, size=0):
    """Log the events of writer 0 with some numbers; -> per user the result."""
    events = {}
    for number in numbers:
        user = USERS[number % len(USERS)]
        events.setdefault(user, []).append(event_of(0, number, size=size))
    return send(store, events)


def send_until_full(store, first, size):
    """Log events one by one until the store has no room; -> the number that was refused."""
    for number in range(first, first + 10_000):
        try:
            send_numbers(store, [number], size)
        except (StoreFull, StoreUnavailable):  # a Redis without room ends itself, with power
            return number
    raise AssertionError("it was never full")


def make_store(url, users=300):
    """Make a store of users with twenty events each."""
    store = open_store(url, "process")
    events = [Event(1000 - n, b"item%d" % n, b"event%d" % n) for n in range(20)]
    store.append(DIGEST, [Append(b"u%d" % n, 0, 0, 0, events, None, [n]) for n in range(users)])
    store.close()


def write_for_ever(say, url, durability, number, seed, compacting):
    """Log events from a number on, in groups; say up to which they were acknowledged."""
    store, dice, first = open_store(url, durability), random.Random(seed), number
    while True:
        # What may be in the log already is sent one by one: no record is left behind by a retry.
        group = range(number, number + (1 if number < first + 12 else dice.randint(1, 12)))
        send_numbers(store, group)
        number = group.stop
        say(str(number))
        if compacting and dice.random() < 0.2:
            store.compact()
            say("compacted")


def numbered_calls(say, url, durability, count):
    """Some calls, and nothing of LMDB's sync of every second."""
    lmdb_folder.PAUSE = float("inf")
    store = open_store(url, durability)
    send_numbers(store, [10**6])  # the first of all syncs the head of a new log
    say("begin")
    for number in range(count):
        send_numbers(store, range(number * 5, number * 5 + 5))
        say(f"acknowledged {number}")
    say("end")


def open_and_wait(say, url):
    """Keep the store open until killed."""
    store = open_store(url, "process")
    send_numbers(store, [1])
    say("open")
    time.sleep(600)


def write_beside_another(say, url, writer, count):
    """Log events of all users at once, beside another process; say their numbers in the logs."""
    store = open_store(url, "power")
    say("open")
    while "go" not in store.meta():
        pass
    for number in range(count):
        events = {user: [event_of(writer, 10 * number + n)] for n, user in enumerate(USERS)}
        results = send(store, events)
        assert all(result.new == (True,) for result in results.values())
        say(" ".join(str(result.last) for result in results.values()))


if __name__ == "__main__":
    numbered_calls(
        lambda text: os.write(1, text.encode() + b"\n"), *sys.argv[1:3], int(sys.argv[3])
    )
