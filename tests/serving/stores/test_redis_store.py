from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving.redis_server import RedisServer
from serving.stores.redis_calls import changing_calls
from serving.stores.store_jobs import USERS, event_of, send
from serving.stores.store_properties import (
    DIGEST,
    OTHER,
    StoreContract,
    bitmap,
    bits,
    event,
    events_of,
    log,
    read_user,
    record,
    together,
)
from serving.stores.store_survival import SurvivalContract
from serving.strace import need_strace

from longrec.core.choices import Durability
from longrec.serving.stores import redis_cleanup, redis_client, redis_layout
from longrec.serving.stores.checks import event_digest
from longrec.serving.stores.encoding import pack_event
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Append, Put, Rewrite, Store, StoreFull
from longrec.serving.stores.redis_layout import ERASED_EVENTS

_names = itertools.count()


@pytest.fixture
def store(server):
    store = open_store(server.url)
    yield store
    store.close()


class RedisBackend:
    kills = 8
    record_may_lag = True

    def __init__(self, server: RedisServer, ends_itself: bool = False) -> None:
        """ends_itself : whether the server does so where it cannot write."""
        self.server, self.url, self.ends_itself = server, server.url, ends_itself

    def content(self) -> dict[bytes, bytes]:
        """All that stands in the server, but for the answers to calls."""
        with self.server.client() as admin:
            keys = [key for key in admin.keys("*") if b"done:" not in key]
            return {key: admin.dump(key) for key in keys if key != b"longrec:run"}

    def files(self) -> list[bytes]:
        return [file.read_bytes() for file in self.server.folder.rglob("*") if file.is_file()]

    def damage(self) -> Iterator[str]:
        with self.server.client() as admin:
            for meta in ("what is this", "[1, 2]"):
                admin.set("longrec:meta", meta)
                yield r"no store of users.*prefix="
            admin.delete("longrec:meta")
            admin.rpush("longrec:meta", "x")
            yield r"no store of users.*prefix="

    @contextmanager
    def fill(self, store: Store) -> Iterator[str]:
        """The memory is full at once; so nothing at all is written."""
        with self.server.client() as admin:
            before = self.content()
            admin.config_set("maxmemory", 1)
            try:
                yield r"maxmemory.*Raise it.*CONFIG SET maxmemory"
                assert self.content() == before
            finally:
                admin.config_set("maxmemory", 0)

    def strike(self, kill: int) -> None:
        if kill % 4 == 3:
            self.server.kill()

    def recover(self) -> None:
        if self.server.process is not None and self.ends_itself:
            self.server.process.wait()
            self.server.process = None
        if self.server.process is None:
            self.server.start()

    def trace(self, durability: Durability, calls: int) -> list[int]:
        """Syncs of the append-only file after the call before and before the answer."""
        need_strace()
        trace = self.server.folder / "trace"
        traced = "trace=fdatasync,fsync,write,sendto"
        self.server.kill()
        self.server.wrapped = ["strace", "-f", "-y", "-e", traced, "-o", str(trace)]
        self.server.start()
        store = open_store(self.url, durability)
        with self.server.client() as client:
            client.echo("begin")
            for number in range(calls):
                results = send(store, {USERS[n]: [event_of(n, number)] for n in range(2)})
                assert all(result.new == (True,) for result in results.values())
                client.echo(f"acknowledged-{number}")
        store.close()
        self.server.kill()
        between = re.split(r"(?:begin|acknowledged-\d+)\\r\\n", trace.read_text())[1:-1]
        answer = r'(?:write|sendto)\(\d+<[^>]*>, "[^"]*1 \d+ 1,1 \d+ 1'
        before = [re.split(answer, text) for text in between]
        assert all(len(parts) == 2 for parts in before), "calls were not answered"
        return [len(re.findall(r"fdatasync\(\d+<[^>]*\.aof>\) += 0", text)) for text, _ in before]


class TestContract(StoreContract):
    """What every store does."""

    @pytest.fixture
    def open_named(self, shared_server):
        number = next(_names)
        return lambda name: open_store(f"{shared_server.url}?prefix=t{number}:{name}:")


class TestSurvival(SurvivalContract):
    @pytest.fixture
    def backend(self, request):
        """On the shared server, unless it is killed or files are looked at."""
        if "kills" in request.node.name:
            folder = request.getfixturevalue("tmp_path")
            with RedisServer(folder) as server:
                yield RedisBackend(server)
        else:
            yield RedisBackend(request.getfixturevalue("server"))

    @pytest.fixture
    def make_backend(self):
        @contextmanager
        def make(folder: Path, durability: Durability) -> Iterator[RedisBackend]:
            settings = {"aof_use_rdb_preamble": "no", "auto_aof_rewrite_percentage": "0"}
            sync = {"process": "everysec", "power": "always"}[durability]
            with (
                RedisServer(folder, appendfsync=sync, **settings) as server,
                pytest.MonkeyPatch.context() as patch,
            ):
                patch.setattr(redis_client, "PATIENCE", 0.5)
                yield RedisBackend(server, ends_itself=durability == "power")

        return make


def test_with_full_memory_users_are_forgotten_and_models_dropped(store, admin):
    for user in (b"u", b"v"):
        log(store, user, event(1))
    admin.config_set("maxmemory", 1)
    assert store.forget(b"v")
    assert not store.forget(b"v")
    assert store.drop(DIGEST) == 1
    with pytest.raises(StoreFull):
        log(store, b"u", event(2))
    admin.config_set("maxmemory", 0)
    log(store, b"u", event(2), seen=[1])
    assert events_of(store, b"u") == [event(1), event(2)]


def test_a_server_that_knows_no_scripts_any_more_gets_them_again(store, admin):
    log(store, b"u", event(0))
    for name in ("append", "put", "meta", "drop", "rewrite", "forget"):
        for read in (read_user, events_of):
            admin.script_flush()
            read(store, b"u")
        act = changing_calls(store)[name][0]
        admin.script_flush()
        act()
    assert store.meta()["n"] == 1
    assert store.users(b"", 9) == []


def test_much_in_one_call_goes_in_parts(store, monkeypatch):
    monkeypatch.setattr(redis_layout, "CALL_BYTES", 20_000)
    users = [b"%04d" % number for number in range(400)]
    events = [event(number) for number in range(3)]
    appends = [Append(user, 0, 0, 0, events, record(1, 3, user=user), [7]) for user in users]
    assert store.append(DIGEST, appends) == [((True,) * 3, 3, True)] * 400
    found = store.read(DIGEST, [(user, [b"event1"]) for user in users], seen=True)
    assert len({one.log_id for one in found}) == 400
    assert [one.record for one in found] == [record(1, 3, user=user) for user in users]
    for user, one in zip(users, found, strict=True):
        known = (event_digest(user, pack_event(events[1])),)
        assert (one.last, *one[3:]) == (3, bitmap([7]), known, 1, "")
    puts = [
        Put(user, one.log_id, 0, record(1, 3, user=user), b"")
        for user, one in zip(users, found, strict=True)
    ]
    assert store.put(OTHER, puts) == 400
    assert store.drop(DIGEST) == 400
    assert store.totals().records == {OTHER: 400}


def test_a_very_long_log_is_replaced_in_one_step(store, server):
    long = [event(number) for number in range(20_000)]
    log(store, b"u", event(1))
    other = open_store(server.url)
    stop, met = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            found = read_user(other, b"u", names=[b"event19999"])
            met.add(
                (found.last, found.known[0] is not None, found.record is None, bool(found.seen))
            )

    def write() -> None:
        try:
            assert store.rewrite([Rewrite(b"u", read_user(store, b"u").log_id, 1, long)]) == [True]
        finally:
            time.sleep(0.02)
            stop.set()

    together([read, write])
    assert met == {(1, False, False, False), (20_000, True, True, False)}
    assert events_of(store, b"u") == long
    assert store.totals().events == 20_000
    assert store.forget(b"u")
    assert store.totals().events == 0
    other.close()


@pytest.mark.parametrize("at", ["replace", "erase"])
def test_what_was_left_half_done_goes_when_it_is_compacted(store, admin, monkeypatch, at):
    """A rewrite that was killed before, or after, the new log took the place of the old one."""
    log(store, b"u", event(1), seen=[3])
    run, change = store._client.run, store._client.run_once

    def killing(call):
        def killed(script, *arguments, **options):
            if script == at:
                raise KeyboardInterrupt
            return call(script, *arguments, **options)

        return killed

    with monkeypatch.context() as patched:
        patched.setattr(store._client, "run", killing(run))
        patched.setattr(store._client, "run_once", killing(change))
        with pytest.raises(KeyboardInterrupt):
            store.rewrite([Rewrite(b"u", read_user(store, b"u").log_id, 1, [event(2), event(3)])])
    now = [event(1)] if at == "replace" else [event(2), event(3)]
    good, left = (1, 2) if at == "replace" else (2, 1)
    for since in (
        redis_cleanup.UNFINISHED,
        -2,
    ):  # within an hour it may be another process's that goes on
        monkeypatch.setattr(redis_cleanup, "UNFINISHED", since)
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
    assert store.rewrite([Rewrite(b"u", read_user(store, b"u").log_id, len(now), [event(4)])]) == [
        True
    ]
    assert events_of(store, b"u") == [event(4)]


@pytest.mark.parametrize("many", [64, 2 * ERASED_EVENTS])
@pytest.mark.parametrize("overtaken", [False, True])
def test_forgetting_takes_all_keys_of_a_user_with_it(
    store, server, admin, monkeypatch, many, overtaken
):
    """Also of what is logged while it forgets."""
    before = set(admin.keys("*")) | {b"longrec:born", b"longrec:digests"}
    log(store, b"u", *[event(number, number % 3 > 0) for number in range(many)], seen=[1, 40_000])
    store.put(
        OTHER, [Put(b"u", read_user(store, b"u").log_id, 0, record(1, 2), bitmap([9, 90_000]))]
    )
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


def test_bitmaps_are_the_same_after_events_one_by_one_and_at_once(store):
    indices = [0, 1, 6, 7, 8, 9, 15, 16, 63, 64, 1000, 4095]
    for number, index in enumerate(indices):
        log(store, b"u", event(number), seen=[index])
    found = read_user(store, b"u")
    store.put(OTHER, [Put(b"u", found.log_id, 0, record(1, 12), bitmap(indices) + bytes(5))])
    assert found.seen == read_user(store, b"u", OTHER).seen == bitmap(indices)
    assert bits(found.seen) == set(indices)
