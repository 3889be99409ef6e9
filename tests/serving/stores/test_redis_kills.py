from __future__ import annotations

import itertools
import random
import re
import threading
import time

import pytest
from forking import ForkServer, kills
from serving.redis_server import RedisServer, need_redis
from serving.stores.redis_jobs import USERS, chained, make, send
from serving.stores.store_properties import bits, events_of, kept, together
from serving.strace import need_strace

from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import read_header


@pytest.fixture(scope="module")
def forks():
    need_redis()
    with ForkServer("serving.stores.redis_jobs") as server:
        yield server


def check(store) -> list[int]:
    """Each record is what its log makes of it, up to where it is; -> the times of all events."""
    times = []
    for user in store.users(b"", 100):
        events, found = events_of(store, user), kept(store, user)
        assert len(events) == found.last
        times += [event.time for event in events]
        reached = read_header(found.record).sequence
        wanted = chained(None, events[:reached])
        assert found.record[48:] == wanted[48:], "a record was made from another state"
        assert bits(found.seen) <= {event.time % 5000 for event in events[:reached]}
    assert len(set(times)) == len(times), "an event was logged twice"
    assert store.totals().events == len(times)
    return times


# The server is killed, its clients go on.


@pytest.mark.kills
def test_kills_of_the_server(tmp_path):
    """Half of the events have ids; all are logged once, and no client notices anything."""
    many = kills(6)
    dice, stop = random.Random(many), threading.Event()
    sent = [0, 0, 0]
    with RedisServer(tmp_path) as server:
        stores = [open_store(server.url) for _ in sent]

        def work(writer: int) -> None:
            try:
                while not stop.is_set():
                    some = [make(writer, sent[writer] + n, named=n % 2 > 0) for n in range(4)]
                    done = send(stores[writer], {USERS[0]: some[:2], USERS[1 + writer]: some[2:]})
                    assert all(one.new == (True, True) for one in done.values())
                    sent[writer] += 4
            finally:
                stop.set()

        def kill() -> None:
            try:
                for number in range(many):
                    before = sum(sent)
                    while sum(sent) < before + 40 and not stop.is_set():
                        time.sleep(0.001)
                    time.sleep(dice.random() * 0.01)
                    if number % 3:
                        server.kill()
                        server.start()
                    else:
                        with server.client() as client:
                            client.client_kill_filter(_type="normal", skipme=True)
            finally:
                stop.set()

        together([kill, *(lambda writer=writer: work(writer) for writer in range(3))])
        server.kill()
        server.start()
        wanted = [make(writer, n).time for writer in range(3) for n in range(sent[writer])]
        assert sorted(check(stores[0])) == wanted
        for store in stores:
            store.close()


# Clients are killed, and the server too now and then.


@pytest.mark.kills
def test_kills_of_clients(forks, tmp_path):
    many = kills(8)
    dice, acknowledged, total = random.Random(many), 0, 0
    with RedisServer(tmp_path) as server:
        for kill in range(many):
            # It begins with what was sent and not acknowledged: a retry.
            with forks.job("go_on", server.url, "power", 1, acknowledged, kill) as job:
                said = [job.line() or "failed: it says nothing"] if kill % 3 else []
                time.sleep(dice.random() * 0.02)
                if kill % 4 == 3:
                    server.kill()
                said += job.killed()
            assert not [line for line in said if line.startswith("failed")]
            if kill % 4 == 3:
                server.start()
            total += len(said)
            acknowledged = max(acknowledged, *(int(line) for line in said), 0)
            store = open_store(server.url)
            logged = sorted(check(store))  # of a call all users' events or none
            assert logged == [make(1, n).time for n in range(len(logged))], "events are missing"
            assert len(logged) >= acknowledged, "an acknowledged event was lost"
            store.close()
    assert total > many / 2


# Replicas.


def test_two_processes_that_log_events_of_the_same_users_end_in_one_order(forks, tmp_path):
    many = 60
    with RedisServer(tmp_path) as server:
        jobs = [forks.job("rounds", server.url, writer, many) for writer in range(2)]
        assert [job.line() for job in jobs] == ["open", "open"]
        store = open_store(server.url)
        store.change_meta(lambda meta: meta.update(go=True))
        said = [job.lines() for job in jobs]
        assert [len(lines) for lines in said] == [many, many], said
        check(store)
        for place, user in enumerate(USERS):
            told = {}
            for writer, lines in enumerate(said):
                for number, line in enumerate(lines):
                    told[int(line.split()[place])] = make(writer, 10 * number + place)
            assert events_of(store, user) == [told[n] for n in range(1, 2 * many + 1)]
        store.close()


# "power" is real.


@pytest.mark.parametrize("durability", ["power", "process"])
def test_syncs_before_each_acknowledgement(tmp_path, durability):
    need_strace()
    trace, many = tmp_path / "trace", 12
    wrapped = ["strace", "-f", "-y", "-e", "trace=fdatasync,fsync,write,sendto", "-o", str(trace)]
    sync = {"power": "always", "process": "everysec"}[durability]
    with RedisServer(tmp_path / "redis", wrapped, appendfsync=sync) as server:
        store = open_store(server.url, durability)
        numbers = itertools.count()
        with server.client() as client:
            client.echo("begin")
            for _ in range(many):
                number = next(numbers)
                done = send(store, {USERS[0]: [make(0, number)], USERS[1]: [make(1, number)]})
                assert all(one.new == (True,) for one in done.values())
                client.echo(f"acknowledged-{number}")
        store.close()
        server.kill()
    lines = trace.read_text()
    between = re.split(r"(?:begin|acknowledged-\d+)\\r\\n", lines)[1:-1]
    assert len(between) == many
    answered = r'(?:write|sendto)\(\d+<[^>]*>, "[^"]*1 \d+ 1,1 \d+ 1'
    synced = rf"fdatasync\(\d+<[^>]*\.aof>\) += 0.*\n(?:.*\n)*?.*{answered}"
    found = [len(re.findall(r"fdatasync\(\d+<[^>]*\.aof>\) += 0", text)) for text in between]
    assert all(re.search(answered, text) for text in between)
    if durability == "power":
        assert min(found) >= 1, found
        assert all(re.search(synced, text) for text in between), "answered before it was synced"
    else:
        assert sum(found) < many, found
