"""Calls to Redis: answers that are lost, requests that come late, servers and clients that end."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time

import pytest
from forking import kills
from serving.redis_server import RedisServer
from serving.stores.cutting_proxy import CuttingProxy
from serving.stores.redis_calls import changing_calls
from serving.stores.store_jobs import DIGEST, USERS, event_of, send, send_until
from serving.stores.store_properties import event, events_of, log, read_user, step, together
from serving.stores.store_survival import check_logs

from longrec.serving.stores import redis_client
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Event, StoreUnavailable


@pytest.fixture
def proxy(server):
    with CuttingProxy(server.port) as started:
        yield started


@pytest.mark.parametrize("name", ["append", "named", "put", "rewrite", "forget", "drop", "meta"])
@pytest.mark.parametrize("skipped", [0, 1, 2, 3])
def test_a_call_whose_answer_was_lost_is_done_once(server, proxy, name, skipped):
    store, direct = open_store(proxy.url), open_store(server.url)
    log(direct, b"u", event(1), event(2))
    act, wanted = changing_calls(store)[name]
    proxy.lose_next(skipped)
    assert act() == wanted
    proxy.lose = lambda: False
    assert proxy.cuts == 1 or skipped
    assert direct.meta().get("n", 0) == (name == "meta")
    many = {"append": 3, "named": 3, "rewrite": 1, "forget": 0}.get(name, 2)
    assert read_user(direct, b"u").last == len(events_of(direct, b"u")) == many
    assert direct.totals().events == many
    direct.close()
    store.close()


def test_a_request_that_comes_late_is_not_done_again(proxy):
    store = open_store(proxy.url + "?socket_timeout=0.1")
    log(store, b"u", event(1))
    for last, number in ((2, 2), (3, 4)):  # events without columns, which cost no call more
        found = read_user(store, b"u")
        unnamed = step(found, b"u", [event(number, named=False)])
        proxy.hold = True
        assert store.append(DIGEST, [unnamed]) == [((True,), last, True)]
    after = read_user(store, b"u")
    same, too_late = proxy.release()[::-1]
    assert same == b"$7\r\n4 1 3 1\r\n"  # of four calls that have written
    assert b"later call" in too_late
    assert read_user(store, b"u") == after
    assert after.last == 3
    store.close()


def test_connections_that_are_cut_again_and_again_do_no_harm(server, proxy):
    """Half of it events without ids: each is logged once, and known to be new."""
    counter, rounds = itertools.count(1), 40
    proxy.lose = lambda: next(counter) % 7 == 0
    stores = [open_store(proxy.url) for _ in range(3)]

    def work(worker: int) -> None:
        for number in range(rounds):
            name = b"%d-%d" % (worker, number) if number % 2 else None
            done = send(stores[worker], {b"u": [Event(1000 * worker + number, b"i", name)]})
            assert done[b"u"].new == (True,)

    together([lambda worker=worker: work(worker) for worker in range(3)])
    assert proxy.cuts > 12
    direct = open_store(server.url)
    logged = [one.time for one in events_of(direct, b"u")]
    assert sorted(logged) == [1000 * worker + n for worker in range(3) for n in range(rounds)]
    for one in (*stores, direct):
        one.close()


def test_a_server_that_is_gone_is_reported_and_may_come_back(tmp_path, monkeypatch):
    with RedisServer(tmp_path) as server:
        store = open_store(server.url + "?socket_timeout=0.1")
        log(store, b"u", event(1))
        monkeypatch.setattr(redis_client, "PATIENCE", 0.1)
        append = step(read_user(store, b"u"), b"u", [event(2)])
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


@pytest.mark.kills
def test_kills_of_the_server(tmp_path):
    """Half of the events have ids; all are logged once, and no client notices anything."""
    many = kills(6)
    dice, stop = random.Random(many), threading.Event()
    sent = [0, 0, 0]
    with RedisServer(tmp_path) as server:
        stores = [open_store(server.url) for _ in sent]

        def work(writer: int) -> None:
            send_until(stop, stores[writer], writer, sent, [USERS[0], USERS[1 + writer]])

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
        wanted = [event_of(writer, n).time for writer in range(3) for n in range(sent[writer])]
        assert sorted(check_logs(stores[0])) == wanted
        for store in stores:
            store.close()


def test_two_processes_that_log_events_of_the_same_users_end_in_one_order(forks, server):
    count = 40
    jobs = [forks.job("write_beside_another", server.url, writer, count) for writer in range(2)]
    assert [job.line() for job in jobs] == ["open", "open"]
    store = open_store(server.url)
    store.change_meta(lambda meta: meta.update(go=True))
    answers = [job.lines() for job in jobs]
    assert [len(lines) for lines in answers] == [count, count], answers
    check_logs(store)
    for column, user in enumerate(USERS):
        events = {}
        for writer, lines in enumerate(answers):
            for number, line in enumerate(lines):
                events[int(line.split()[column])] = event_of(writer, 10 * number + column)
        assert events_of(store, user) == [events[n] for n in range(1, 2 * count + 1)]
    store.close()


def test_a_fork_goes_on_beside_its_parent(server):
    """Neither is given the answers to the other's calls."""
    store = open_store(server.url)
    log(store, b"u", event(0, named=False))
    pid = os.fork()
    if not pid:
        try:
            log(store, b"child", event(1, named=False))
            log(store, b"child", event(2, named=False))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    for number in (1, 2):
        log(store, b"u", event(number, named=False))
    assert [one.time for one in events_of(store, b"u")] == [1000, 999, 998]
    assert [one.time for one in events_of(store, b"child")] == [999, 998]
    store.close()
