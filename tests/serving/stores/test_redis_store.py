from __future__ import annotations

import itertools
import os
import random
import re
import subprocess
import threading
import time

import pytest
from serving.redis_server import RedisServer
from serving.stores.cutting_proxy import CuttingProxy
from serving.stores.redis_jobs import send
from serving.stores.store_properties import (
    DIGEST,
    OTHER,
    StoreContract,
    bitmap,
    bits,
    event,
    events_of,
    kept,
    log,
    record,
    step,
    together,
)

from longrec.core.errors import DataError, UsageError
from longrec.serving.stores import redis_client, redis_store
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Append, Event, Put, Rewrite, StoreFull, StoreUnavailable
from longrec.serving.stores.redis_layout import ERASED_EVENTS

_names = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def make(server):
    """One server for all, and a prefix for each test."""
    number = next(_names)
    return lambda name="a": open_store(f"{server.url}?prefix=t{number}:{name}:")


@pytest.fixture
def admin(server):
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def store(server, admin):
    opened = open_store(server.url)
    yield opened
    opened.close()


@pytest.fixture
def proxy(server):
    with CuttingProxy(server.port) as started:
        yield started


class TestContract(StoreContract):
    """What every store does."""


def test_looking_for_a_store_makes_none(server, admin):
    with pytest.raises(DataError, match="no store of users under this prefix"):
        open_store(server.url, readonly=True)
    assert not admin.exists("longrec:meta")
    open_store(server.url).close()
    open_store(server.url, readonly=True).close()


def test_a_store_that_was_closed_says_so(store):
    store.close()
    with pytest.raises(UsageError, match="was closed"):
        store.meta()


def test_a_server_that_knows_no_scripts_any_more_gets_them_again(store, admin):
    log(store, b"u", event(0))
    for name in ("append", "put", "meta", "drop", "rewrite", "forget"):
        for read in (kept, events_of):
            admin.script_flush()
            read(store, b"u")
        act = calls(store)[name][0]
        admin.script_flush()
        act()
    assert store.meta()["n"] == 1
    assert store.users(b"", 9) == []


def test_much_in_one_call_goes_in_parts(store, monkeypatch):
    monkeypatch.setattr(redis_store, "CALL_BYTES", 50_000)
    users = [b"%04d" % number for number in range(1200)]
    events = [event(number) for number in range(3)]
    appends = [Append(user, 0, 0, 0, events, record(1, 3), [7]) for user in users]
    assert store.append(DIGEST, appends) == [((True,) * 3, 3, True)] * 1200
    found = store.read(DIGEST, [(user, [b"event1"]) for user in users], seen=True)
    assert len({one.born for one in found}) == 1200
    assert {one[1:] for one in found} == {(3, record(1, 3), bitmap([7]), (True,))}
    puts = [
        Put(user, one.born, 0, record(1, 3), b"") for user, one in zip(users, found, strict=True)
    ]
    assert store.put(OTHER, puts) == 1200
    assert store.drop(DIGEST) == 1200
    assert store.totals().records == {OTHER: 1200}


def test_a_very_long_log_is_replaced_in_one_step(store, server):
    long = [event(number) for number in range(100_000)]
    log(store, b"u", event(1))
    other = open_store(server.url)
    stop, met = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            found = kept(other, b"u", names=[b"event99999"])
            met.add((found.last, found.known[0], found.record is None, bool(found.seen)))

    def write() -> None:
        try:
            assert store.rewrite([Rewrite(b"u", kept(store, b"u").born, 1, long)]) == [True]
        finally:
            time.sleep(0.02)
            stop.set()

    together([read, write])
    assert met == {(1, False, False, False), (100_000, True, True, False)}
    assert events_of(store, b"u") == long
    assert store.totals().events == 100_000
    assert store.forget(b"u")
    assert store.totals().events == 0
    other.close()


@pytest.mark.parametrize("at", ["replace", "erase"])
def test_what_was_left_half_done_goes_when_it_is_compacted(store, admin, monkeypatch, at):
    """A rewrite that was killed before, or after, the new log took the place of the old one."""
    log(store, b"u", event(1), seen=[3])
    run, change = store._client.run, store._client.run_once

    def killing(call):
        def killed(script, *arguments):
            if script == at:
                raise KeyboardInterrupt
            return call(script, *arguments)

        return killed

    with monkeypatch.context() as patched:
        patched.setattr(store._client, "run", killing(run))
        patched.setattr(store._client, "run_once", killing(change))
        with pytest.raises(KeyboardInterrupt):
            store.rewrite([Rewrite(b"u", kept(store, b"u").born, 1, [event(2), event(3)])])
    now = [event(1)] if at == "replace" else [event(2), event(3)]
    good, left = (1, 2) if at == "replace" else (2, 1)
    for since in (
        redis_store.UNFINISHED,
        -2,
    ):  # within an hour it may be another process's that goes on
        monkeypatch.setattr(redis_store, "UNFINISHED", since)
        before = set(admin.keys("*"))
        store.compact()
        assert events_of(store, b"u") == now
        gone = before - set(admin.keys("*"))
        garbage = {
            key for key in before if re.search(rb"(log|id|record|pages|seen):.*\b%d\b" % left, key)
        }
        assert garbage
        if since < 0:
            assert gone - {key for key in gone if b"done:" in key} == garbage | {b"longrec:old"}
            assert any(b"done:" in key for key in gone)
        else:
            assert not gone
    assert admin.exists(b"longrec:log:%d:0" % good)
    assert store.rewrite([Rewrite(b"u", kept(store, b"u").born, len(now), [event(4)])]) == [True]
    assert events_of(store, b"u") == [event(4)]


@pytest.mark.parametrize("many", [64, 2 * ERASED_EVENTS])
@pytest.mark.parametrize("overtaken", [False, True])
def test_forgetting_takes_all_keys_of_a_user_with_it(
    store, server, admin, monkeypatch, many, overtaken
):
    """Also of what is logged while it forgets."""
    before = set(admin.keys("*")) | {b"longrec:born", b"longrec:digests"}
    log(store, b"u", *[event(number, number % 3 > 0) for number in range(many)], seen=[1, 40_000])
    store.put(OTHER, [Put(b"u", kept(store, b"u").born, 0, record(1, 2), bitmap([9, 90_000]))])
    other, read = open_store(server.url), store.read

    def overtake(*arguments):
        found = read(*arguments)
        monkeypatch.undo()
        log(other, b"u", event(many))
        return found

    if overtaken:
        monkeypatch.setattr(store, "read", overtake)
    assert store.forget(b"u")
    assert {key for key in admin.keys("*") if b"done:" not in key} <= before
    assert not store.forget(b"u")
    other.close()


def test_forgetting_and_compacting_leave_no_byte_of_a_user(tmp_path):
    with RedisServer(tmp_path, aof_use_rdb_preamble="no", hz="500") as server:
        store = open_store(server.url)
        users = [b"%04d-%s" % (n, b"stays" if n % 3 else b"forgotten") for n in range(600)]
        appends = [
            Append(user, 0, 0, 0, [Event(1, b"item-" + user, b"id-" + user)], record(1, 1), [n])
            for n, user in enumerate(users)
        ]
        store.append(DIGEST, appends)
        born = kept(store, users[0]).born
        rewritten = [Event(1, b"other-" + users[0], b"id-" + users[0])]
        assert store.rewrite([Rewrite(users[0], born, 1, rewritten)]) == [True]
        assert all(store.forget(user) for user in users if user.endswith(b"forgotten"))
        before, after = store.compact()
        assert after < before
        store.close()
        files = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
        assert not any(b"forgotten" in content for content in files)
        assert sum(content.count(b"item-0001-stays") for content in files) == 1
        server.kill()
        server.start()
        store = open_store(server.url)
        assert store.users(b"", 1000) == [user for user in users if user.endswith(b"stays")]
        store.close()


# An answer that is lost, a request that comes late.


def calls(store):
    """Every changing call, each as it can be done once only."""
    born = kept(store, b"u").born
    return {
        "append": (lambda: send(store, {b"u": [Event(1, b"i", None)]})[b"u"], ((True,), 3, True)),
        "named": (lambda: send(store, {b"u": [event(9)]})[b"u"], ((True,), 3, True)),
        "put": (lambda: store.put(OTHER, [Put(b"u", born, 0, record(1, 2), b"")]), 1),
        "rewrite": (lambda: store.rewrite([Rewrite(b"u", born, 2, [event(3)])]), [True]),
        "forget": (lambda: store.forget(b"u"), True),
        "drop": (lambda: store.drop(DIGEST), 1),
        "meta": (lambda: store.change_meta(lambda meta: meta.update(n=meta.get("n", 0) + 1)), None),
    }


@pytest.mark.parametrize("name", ["append", "named", "put", "rewrite", "forget", "drop", "meta"])
@pytest.mark.parametrize("skipped", [0, 1, 2, 3])
def test_a_call_whose_answer_was_lost_is_done_once(admin, proxy, server, name, skipped):
    store, direct = open_store(proxy.url), open_store(server.url)
    log(direct, b"u", event(1), event(2))
    act, wanted = calls(store)[name]
    proxy.lose_next(skipped)
    assert act() == wanted
    proxy.lose = lambda: False
    assert proxy.cuts == 1 or skipped
    assert direct.meta().get("n", 0) == (name == "meta")
    many = {"append": 3, "named": 3, "rewrite": 1, "forget": 0}.get(name, 2)
    assert kept(direct, b"u").last == len(events_of(direct, b"u")) == many
    assert direct.totals().events == many
    direct.close()
    store.close()


def test_a_request_that_comes_late_is_not_done_again(admin, proxy):
    store = open_store(proxy.url + "?socket_timeout=0.1")
    log(store, b"u", event(1))
    for number in (2, 3):
        found = kept(store, b"u")
        unnamed = step(found, b"u", [event(number, named=False)])
        proxy.hold = True
        assert store.append(DIGEST, [unnamed]) == [((True,), number, True)]
    after = kept(store, b"u")
    same, too_late = proxy.release()[::-1]
    assert same == b"$5\r\n1 3 1\r\n"
    assert b"later call" in too_late
    assert kept(store, b"u") == after
    assert after.last == 3
    store.close()


def test_connections_that_are_cut_again_and_again_do_no_harm(admin, proxy, server):
    """Half of it events without ids: each is logged once, and known to be new."""
    counter, rounds = itertools.count(1), 60
    proxy.lose = lambda: next(counter) % 7 == 0
    stores = [open_store(proxy.url) for _ in range(3)]

    def work(worker: int) -> None:
        for number in range(rounds):
            name = b"%d-%d" % (worker, number) if number % 2 else None
            done = send(stores[worker], {b"u": [Event(1000 * worker + number, b"i", name)]})
            assert done[b"u"].new == (True,)

    together([lambda worker=worker: work(worker) for worker in range(3)])
    assert proxy.cuts > 20
    direct = open_store(server.url)
    logged = [one.time for one in events_of(direct, b"u")]
    assert sorted(logged) == [1000 * worker + n for worker in range(3) for n in range(rounds)]
    for one in (*stores, direct):
        one.close()


def test_a_server_that_is_gone_is_told_and_may_come_back(tmp_path, monkeypatch):
    with RedisServer(tmp_path) as server:
        store = open_store(server.url + "?socket_timeout=0.1")
        log(store, b"u", event(1))
        monkeypatch.setattr(redis_client, "PATIENCE", 0.1)
        append = step(kept(store, b"u"), b"u", [event(2)])
        for stop, go in ((server.kill, server.start), (server.pause, server.resume)):
            stop()
            with pytest.raises(StoreUnavailable, match=r"reached.*may be in the store or not"):
                store.append(DIGEST, [append])
            with pytest.raises(StoreUnavailable) as raised:
                store.meta()
            assert "may be" not in str(raised.value)
            go()
            monkeypatch.setattr(redis_client, "PATIENCE", 6.0)
            store.append(DIGEST, [append])
            assert events_of(store, b"u") == [event(1), event(2)]
            monkeypatch.setattr(redis_client, "PATIENCE", 0.1)
        store.close()


# No room.


def content(admin):
    """All that stands in a server, but for the answers to calls."""
    return {key: admin.dump(key) for key in admin.keys("*") if b"done:" not in key}


def test_full_memory_is_told_and_with_room_it_goes_on(store, admin):
    log(store, b"u", event(1), seen=[1])
    log(store, b"v", event(1))
    found = kept(store, b"u")
    born = found.born
    before = content(admin)
    admin.config_set("maxmemory", 1)
    try:
        for write in (
            lambda: store.append(DIGEST, [step(found, b"u", [event(2)])]),
            lambda: store.append(DIGEST, [Append(b"w", 0, 0, 0, [event(2)], None, [])]),
            lambda: store.put(OTHER, [Put(b"u", born, 0, record(1, 1), b"")]),
            lambda: store.change_meta(lambda meta: meta.update(n=1)),
            lambda: store.rewrite([Rewrite(b"u", born, 1, [event(3)])]),
        ):
            with pytest.raises(StoreFull, match=r"maxmemory.*Raise it.*CONFIG SET maxmemory"):
                write()
        assert kept(store, b"u") == found
        assert content(admin) == before
        assert store.forget(b"v")
        assert not store.forget(b"v")
        assert store.drop(DIGEST) == 1
    finally:
        admin.config_set("maxmemory", 0)
    log(store, b"u", event(2))
    assert events_of(store, b"u") == [event(1), event(2)]
    assert store.totals().events == 2


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_full_disk_is_told_and_with_room_it_goes_on(tmp_path, durability, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small disk")
    monkeypatch.setattr(redis_client, "PATIENCE", 0.2)
    sync = {"process": "everysec", "power": "always"}[durability]
    try:
        (disk / "ballast").write_bytes(bytes(2**20))
        with RedisServer(
            disk / "redis", appendfsync=sync, auto_aof_rewrite_percentage="0"
        ) as server:
            store, done = open_store(server.url, durability), 0
            # With "always" Redis ends itself rather than answer.
            failure = {"process": StoreFull, "power": StoreUnavailable}[durability]

            def fill() -> None:
                nonlocal done
                for done in range(3000):
                    log(store, b"u", Event(done, b"i" * 3000, b"%d" % done))

            with pytest.raises(failure):
                fill()
            assert done > 10
            (disk / "ballast").unlink()
            if durability == "power":
                server.process.wait()
                server.start()
            monkeypatch.setattr(redis_client, "PATIENCE", 6.0)
            waited = time.monotonic() + 30
            while True:  # it tries again once a second
                try:
                    store.append(DIGEST, [step(kept(store, b"u"), b"u", [event(done)])])
                    break
                except StoreFull:
                    assert time.monotonic() < waited
                    time.sleep(0.05)
            logged = [one.time for one in events_of(store, b"u")]
            assert logged[:done] == list(range(done))
            assert logged[done:] in ([event(done).time], [done, event(done).time])
            store.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_bitmaps_are_the_same_after_events_one_by_one_and_at_once(store):
    indices = [0, 1, 6, 7, 8, 9, 15, 16, 63, 64, 1000, 4095]
    for number, index in enumerate(indices):
        log(store, b"u", event(number), seen=[index])
    found = kept(store, b"u")
    store.put(OTHER, [Put(b"u", found.born, 0, record(1, 12), bitmap(indices) + bytes(5))])
    assert found.seen == kept(store, b"u", OTHER).seen == bitmap(indices)
    assert bits(found.seen) == set(indices)


# Redis's file, where it died while it wrote.


def every_call(store, number: int) -> None:
    """Each way to write, to users of its own and to one that is there."""
    users = [b"%d-%d" % (number, n) for n in range(3)]
    store.append(DIGEST, [step(kept(store, user), user, [event(1)], [9]) for user in users])
    log(store, b"always", event(number), seen=[number])
    born = kept(store, users[0]).born
    assert store.put(OTHER, [Put(users[0], born, 0, record(1, 1), bitmap([9, 9000]))]) == 1
    assert store.rewrite([Rewrite(users[0], born, 1, [event(n) for n in range(1200)])]) == [True]
    assert store.forget(users[1])
    store.drop(OTHER)
    store.change_meta(lambda meta: meta.update(n=number))


def state(store):
    users = store.users(b"", 100)
    found = [kept(store, user, digest) for user in users for digest in (DIGEST, OTHER)]
    return users, found, [events_of(store, user) for user in users], store.meta()


def test_no_call_is_a_transaction(tmp_path):
    with RedisServer(tmp_path) as server:
        store = open_store(server.url)
        every_call(store, 1)
        [file] = tmp_path.rglob("*.incr.aof")
        assert file.read_bytes().count(b"MULTI") == 1  # the empty one at the beginning
        store.close()


def test_wherever_the_file_ends_nothing_comes_back_and_nothing_goes(tmp_path):
    """The file is cut at any place; what is logged after that stays, over further starts."""
    dice, before = random.Random(5), 0
    with RedisServer(tmp_path) as server:
        for number in range(14):
            store = open_store(server.url)
            every_call(store, number)
            whole = state(store)
            server.kill()
            server.start()
            assert state(store) == whole
            [file] = tmp_path.rglob("*.incr.aof")
            server.kill()
            os.truncate(file, dice.randint(before, file.stat().st_size))
            server.start()
            log(store, b"always", event(100 + number))
            after = state(store)
            before = file.stat().st_size
            store.close()
            server.kill()
            server.start()
            store = open_store(server.url)
            assert state(store) == after
            times = [one.time for one in events_of(store, b"always")]
            assert len(set(times)) == len(times)
            store.close()


def test_a_transaction_of_others_that_is_half_written_takes_nothing_with_it(tmp_path):
    with RedisServer(tmp_path) as server:
        store = open_store(server.url)
        log(store, b"u", event(1))
        for number in range(2, 4):
            server.kill()
            [file] = tmp_path.rglob("*.incr.aof")
            with file.open("ab") as written:
                written.write(
                    b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$1\r\n1\r\n*3\r\n$3\r"
                )
            server.start()
            log(store, b"u", event(number))
        server.kill()
        server.start()
        assert events_of(store, b"u") == [event(1), event(2), event(3)]
        store.close()
