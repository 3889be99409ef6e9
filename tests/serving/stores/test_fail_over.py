"""Redis behind a Sentinel: masters are killed, replicas take over, and what that loses is told."""

from __future__ import annotations

import threading
import time

import pytest
from redis.exceptions import AuthenticationError, ConnectionError
from serving.redis_sentinel import Watched
from serving.redis_server import RedisServer
from serving.stores.store_jobs import event_of, send, send_until
from serving.stores.store_properties import (
    DIGEST,
    OTHER,
    event,
    events_of,
    log,
    read_user,
    record,
    step,
    together,
)
from serving.stores.store_survival import check_logs

from longrec.core.errors import LongrecError, UsageError
from longrec.serving.stores import redis_client
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import (
    LOG_ID,
    Append,
    Put,
    Rewrite,
    Store,
    StoredUser,
    StoreUnavailable,
)
from longrec.serving.stores.redis_address import RedisAddress
from longrec.serving.stores.redis_sentinel import Sentinels

slow = pytest.mark.slow
PEOPLE = [b"ann", b"bob", b"carl", b"dora"]


@pytest.fixture
def watched(tmp_path):
    with Watched(tmp_path) as started:
        yield started


@pytest.fixture
def patient(monkeypatch):
    """However busy the machine is."""
    monkeypatch.setattr(redis_client, "PATIENCE", 60.0)


@slow
def test_masters_are_killed_and_nothing_is_lost_or_logged_twice(watched, shared_server, patient):
    """Users of two servers, one of them behind a Sentinel; half of the events have ids."""
    url = f"{watched.url}?prefix=a:,{shared_server.url}?prefix=failover:"
    stores, sent, stop = [open_store(url) for _ in range(3)], [0, 0, 0], threading.Event()

    def work(writer: int) -> None:
        send_until(stop, stores[writer], writer, sent, [PEOPLE[0], PEOPLE[1 + writer]])

    def kill() -> None:
        try:
            for _ in range(2):
                before = list(sent)
                while any(a < b + 8 for a, b in zip(sent, before, strict=True)):
                    assert not stop.is_set()
                    time.sleep(0.001)
                watched.start_as_replica(watched.kill_master())
        finally:
            stop.set()

    together([kill, *(lambda writer=writer: work(writer) for writer in range(3))])
    wanted = [event_of(writer, n).time for writer in range(3) for n in range(sent[writer])]
    assert sorted(check_logs(stores[0])) == wanted
    assert {stores[0].part_of(user) for user in PEOPLE} == {0, 1}
    for store in stores:
        assert not store.damage.counts
        store.close()


@slow
def test_what_no_replica_has_is_not_acknowledged_and_else_its_loss_is_told(
    watched, monkeypatch, patient
):
    monkeypatch.setattr(redis_client, "WAIT", 0.1)
    store, careless = open_store(watched.url), open_store(watched.url + "?replicas=0")
    for user in (b"u", b"gone"):
        log(store, user, event(1))
    master, replicas = watched.master, watched.replicas
    for replica in replicas:
        replica.kill()
    refused = step(read_user(store, b"u"), b"u", [event(2)])
    with monkeypatch.context() as patched:
        patched.setattr(redis_client, "PATIENCE", 0.0)
        for call in (lambda: store.append(DIGEST, [refused]), lambda: store.forget(b"gone")):
            with pytest.raises(StoreUnavailable, match=r"acknowledge: 0 of \d replicas have"):
                call()
    # This master alone has it, and a user, and a digest, of which the careless one was told.
    lost = read_user(store, b"u")
    assert lost.last == 2
    careless.append(OTHER, [Append(b"new", 0, 0, 0, [event(1)], None, ())])
    new = read_user(careless, b"new")
    master.kill()
    for replica in replicas:
        replica.start()

    assert events_of(store, b"u") == events_of(store, b"gone") == [event(1)]
    log(store, b"u", event(9))
    assert not store.damage.counts  # nothing that was acknowledged to it
    assert read_user(careless, b"u").last == 2
    assert careless.damage.counts == {"cut": 1}
    careless.append(OTHER, [Append(b"other", 0, 0, 0, [event(1)], None, ())])
    assert careless.meta()["losses"][0]["writes"] == 2
    assert read_user(store, b"other").log_id & LOG_ID != new.log_id & LOG_ID
    with watched.master.client() as client:
        assert client.smembers("longrec:digests") == {DIGEST.encode(), OTHER.encode()}

    # The log is as long, the record has its version: what was read is of another log all the same.
    now = read_user(store, b"u")
    assert (now.last, now.version) == (lost.last, lost.version)
    check_replaced(store, lost)
    assert events_of(store, b"u") == [event(1), event(9), event(6)]
    [again] = store.append(DIGEST, [refused])
    assert again.new == (True,)
    store.close()
    careless.close()


def check_replaced(store: Store, read: StoredUser) -> None:
    """By what was read of u in another run only events are written."""
    assert store.events(b"u", read.log_id, 0, 9) == []
    assert not store.rewrite([Rewrite(b"u", read.log_id, read.last, [event(5)])])[0]
    assert not store.rewrite([Rewrite(b"u", read.log_id, read.last, [])])[0]
    assert store.put(DIGEST, [Put(b"u", read.log_id, read.version, record(9, 2), b"")]) == 0
    [appended] = store.append(DIGEST, [step(read, b"u", [event(6)])])
    assert appended == ((True,), read.last + 1, False)


@slow
def test_a_run_that_ends_within_a_call_counts_as_another_one(tmp_path, monkeypatch):
    with RedisServer(tmp_path) as server:
        store = open_store(server.url)
        log(store, b"u", event(1), event(2))

        def within(call):
            """What a call gives, before whose last command the server is started anew."""
            run_once = store._client.run_once

            def restarted(*arguments):
                server.kill()
                server.start()
                return run_once(*arguments)

            with monkeypatch.context() as patched:
                patched.setattr(store._client, "run_once", restarted)
                return call(read_user(store, b"u"))

        assert not within(lambda u: store.rewrite([Rewrite(b"u", u.log_id, 2, [event(5)])]))[0]
        put = within(
            lambda u: store.put(DIGEST, [Put(b"u", u.log_id, u.version, record(9, 2), b"")])
        )
        assert put == 0
        [appended] = within(lambda u: store.append(DIGEST, [step(u, b"u", [event(3)])]))
        assert appended == ((True,), 3, False)
        assert events_of(store, b"u") == [event(1), event(2), event(3)]
        store.close()


@slow
def test_a_former_master_is_not_written_to(watched, monkeypatch, patient):
    """One that was killed comes back as a master; one that slept wakes as one."""
    store = open_store(watched.url)
    log(store, b"u", event(0))
    killed, replicas = watched.master, watched.replicas
    watched.kill_master()
    log(store, b"u", event(1))
    killed.start()
    for number in range(2, 6):
        log(store, b"u", event(number))
    with killed.client() as client:
        assert "cmdstat_evalsha" not in client.info("commandstats")
    watched.until_follows(killed)

    slept = watched.master
    assert slept in replicas
    time.sleep(redis_client.LOOK)  # then it is seen that a second replica follows again
    monkeypatch.setattr(redis_client, "LOOK", 3600.0)  # and not looked before each call
    log(store, b"u", event(6))
    slept.pause()
    watched.until_moved(slept)
    slept.resume()  # the store's connection to it is open, and it takes itself for the master
    assert send(store, {b"u": [event(7)]})[b"u"].new == (True,)
    watched.until_follows(slept)
    log(store, b"u", event(8))
    assert events_of(store, b"u") == [event(number) for number in range(9)]
    assert not store.damage.counts
    store.close()


@slow
def test_while_nobody_answers_it_says_so_and_then_goes_on(watched, monkeypatch):
    store = open_store(f"redis+sentinel://localhost:1,127.0.0.1:{watched.port}/shop/0")
    log(store, b"u", event(1))
    watched.kill_sentinel()
    watched.servers[0].kill()
    with monkeypatch.context() as patched:
        patched.setattr(redis_client, "PATIENCE", 0.0)
        with pytest.raises(StoreUnavailable, match=r"no Sentinel knows .*'shop'.*localhost:1: "):
            log(store, b"u", event(2))
    watched.start_sentinel(alone=True)
    monkeypatch.setattr(redis_client, "PATIENCE", 60.0)
    log(store, b"u", event(2))
    monkeypatch.setattr(redis_client, "PATIENCE", 0.0)
    with pytest.raises(StoreUnavailable, match=r"a master 'other': .*sentinel monitor NAME"):
        open_store(watched.url.replace("shop", "other"))
    store.close()


# ---- addresses


def test_addresses_of_sentinels():
    found = RedisAddress.parse(
        "rediss+sentinel://me:s3cret%2F@one:1,[::1]:2,three/the-shop/4"
        "?prefix=p:&sentinel_password=s3cret2&socket_timeout=2"
    )
    assert found.public_url == (
        "rediss+sentinel://one:1,[::1]:2,three:26379/the-shop/4?prefix=p%3A"
    )
    assert found.sentinels == [("one", 1), ("::1", 2), ("three", 26379)]
    assert (found.master, found.replicas) == ("the-shop", None)
    assert found.login == {"password": "s3cret2"}
    assert found.secrets == ["s3cret/", "s3cret2"]
    assert (found.options["db"], found.options["socket_timeout"]) == (4, 2.0)
    assert "s3cret" not in repr(found)
    assert RedisAddress.parse("redis://one/0").replicas == 0
    assert RedisAddress.parse("redis://one/0?replicas=2").replicas == 2
    assert RedisAddress.parse("redis+sentinel://one/shop").options["db"] == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+sentinel://:s3cret@one", "cannot be read: write .*/NAME/0"),
        ("redis+sentinel://:s3cret@one/0/x", "cannot be read"),
        ("redis+sentinel://:s3cret@one,/shop/0", "cannot be read"),
        ("redis+sentinel://:s3cret@one:x/shop/0", "cannot be read"),
        ("redis+sentinel://one/shop/0?replicas=-1&sentinel_password=s3cret", "cannot be read"),
        ("redis+sentinel://one/shop/0?replicas=s3cret", "cannot be read"),
        ("redis://one/0?sentinel_password=s3cret", r"sentinel_… is an option of redis\+sentinel"),
        ("redis+sentinel://:s3cret@one/shop/0?ssl_ca_certs=/x", "is no option"),
        ("rediss+sentinel://:s3cret@one/shop/0?ssl_ca_certs=/nowhere.pem", "no such file|no file"),
    ],
)
def test_what_is_wrong_with_an_address_is_told_without_its_password(url, words):
    with pytest.raises(UsageError, match=words) as raised:
        open_store(url)
    assert "s3cret" not in str(raised.value)


def test_a_login_of_sentinels_is_told_apart(monkeypatch):
    def ask(self, host, port):
        raise AuthenticationError("Authentication required.")

    monkeypatch.setattr(Sentinels, "_ask_one", ask)
    with pytest.raises(LongrecError, match=r"Sentinel at one:1 refuses .*\?sentinel_password"):
        open_store("redis+sentinel://one:1/shop/0")


def test_a_silent_sentinel_is_not_waited_for_while_another_one_answers(monkeypatch):
    """It is asked beside the others, and heard again once it answers."""
    asked, answers, begun = threading.Semaphore(0), threading.Event(), []

    def state(port: int, epoch: int) -> tuple[dict[str, object], list[dict[str, object]]]:
        down = dict.fromkeys(("is_sdown", "is_odown"), False)
        about = {"ip": "db", "port": port, "config-epoch": epoch, "flags": "", "is_master": True}
        return about | down, []

    def ask(self, host, port):
        if host == "heard":
            return state(1, 1)
        if not begun:
            begun.append(host)
            raise TimeoutError("timed out")
        asked.release()
        assert answers.wait(60)
        return state(2, 2)

    monkeypatch.setattr(Sentinels, "_ask_one", ask)
    sentinels = Sentinels(RedisAddress.parse("redis+sentinel://silent:1,heard:1/shop/0"))
    for _ in range(3):
        assert sentinels.master(time.monotonic()).port == 1
    assert asked.acquire(timeout=60)
    assert not asked.acquire(blocking=False), "by one thread at a time"
    answers.set()
    end = time.monotonic() + 60
    while sentinels.master(time.monotonic()).port == 1:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_where_all_sentinels_were_silent_all_are_asked_again(monkeypatch):
    def ask(self, host, port):
        raise TimeoutError("timed out")

    sentinels = Sentinels(RedisAddress.parse("redis+sentinel://one:1,two:1/shop/0"))
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Sentinels, "_ask_one", ask)
            with pytest.raises(ConnectionError, match=r"do not answer: (one|two):1: timed out; "):
                sentinels.master(time.monotonic())
    monkeypatch.setattr(Sentinels, "_ask_one", lambda self, host, port: None)
    with pytest.raises(ConnectionError, match="is that its name"):
        sentinels.master(time.monotonic())
