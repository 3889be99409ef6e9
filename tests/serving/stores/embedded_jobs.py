"""What children do to a store in files before they are killed (see forking.py).

python embedded_jobs.py URL DURABILITY GROUPS    `groups`, to be watched from outside
"""

from __future__ import annotations

import os
import random
import resource
import sys
import time

from longrec.serving.stores import lmdb_folder, lmdb_store  # noqa: F401
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import HEADER, Append, Event, StoreFull, read_header

DIGEST = "ab" * 32
USERS = [b"u%d" % number for number in range(7)]


def record(version: int, sequence: int, size: int = 9000) -> bytes:
    header = HEADER.pack(b"LRU1", size, b"digest..", sequence, version, 0, 0)
    return header + version.to_bytes(8, "big") * ((size - len(header)) // 8)


def user_of(number: int) -> bytes:
    return USERS[number % len(USERS)]


def send(store, numbers, size=0):
    """Log events by their numbers, as a stream that has read the store; -> which were new."""
    events = {}
    for number in numbers:
        one = Event(number, b"item%d" % number + bytes(size), b"event%d" % number)
        events.setdefault(user_of(number), []).append(one)
    found = dict(zip(events, store.read(DIGEST, [(user, ()) for user in events]), strict=True))
    appends = []
    for user, its in events.items():
        kept = found[user]
        version = read_header(kept.record).version if kept.record else 0
        after = record(version + 1, kept.last + len(its))
        seen = [one.time for one in its]
        appends.append(Append(user, kept.born, kept.last, version, its, after, seen))
    return [result.new for result in store.append(DIGEST, appends)]


def filled(url, users=300):
    """Make a store of users with twenty events each."""
    store = open_store(url, "process")
    events = [Event(1000 - n, b"item%d" % n, b"event%d" % n) for n in range(20)]
    store.append(DIGEST, [Append(b"u%d" % n, 0, 0, 0, events, None, [n]) for n in range(users)])
    store.close()


def until_full(store, size):
    """Log events one by one until the store is full; -> how many it took."""
    for number in range(10_000):
        try:
            send(store, [number], size)
        except StoreFull:
            return number
    raise AssertionError("it was never full")


def go_on(say, url, durability, number, seed, compact):
    """Log events from a number on, in groups, for ever; say which were acknowledged."""
    store, dice, began = open_store(url, durability), random.Random(seed), number
    while True:
        # What may be in the log already is sent one by one: no record is left behind by a retry.
        group = range(number, number + (1 if number < began + 12 else dice.randint(1, 12)))
        send(store, group)
        number = group.stop
        say(str(number))
        if compact and dice.random() < 0.2:
            store.compact()
            say("compacted")


def groups(say, url, durability, many):
    """Some groups, and nothing of the sync of every second."""
    lmdb_folder.PAUSE = float("inf")
    store = open_store(url, durability)
    send(store, [10**6])  # the first of all syncs the head of a new log
    say("begin")
    for number in range(many):
        send(store, range(number * 5, number * 5 + 5))
        say(f"acknowledged {number}")
    say("end")


def hold(say, url):
    """Hold the store until killed."""
    store = open_store(url, "process")
    send(store, [1])
    say("open")
    time.sleep(600)


def fill(say, url, folder, room):
    """Log until the file may not grow; then, with more room, again."""
    store, number = open_store(url, "power"), 0
    send(store, range(20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.totals().bytes + room, -1))
    for _ in range(3):
        try:
            while True:
                send(store, range(number + 20, number + 40), 3000)
                number += 20
        except StoreFull as error:
            say(f"full {number + 20} {error}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, -1))
    try:
        store.compact()
    except StoreFull as error:
        say(f"full compact {error}")
    say(f"left {' '.join(sorted(os.listdir(folder)))}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    send(store, range(number + 40, number + 60), 3000)


if __name__ == "__main__":
    groups(lambda text: os.write(1, text.encode() + b"\n"), *sys.argv[1:3], int(sys.argv[3]))
