"""What is wrong with a store is found, whatever it is, and nothing where nothing is wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import lmdb
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.small_models import N, make
from serving.maintenance.small_stores import (
    EVENTS,
    MODEL,
    OTHER,
    fill,
    logs,
    put_record,
    record,
    serve,
)
from serving.redis_server import RedisServer

from longrec.config.training import TrainConfig
from longrec.core.errors import DataError, UsageError
from longrec.data.catalog import Catalog
from longrec.recommender import Recommender
from longrec.serving.maintenance.replay import Replay
from longrec.serving.maintenance.verify import Verified, verify
from longrec.serving.stores import log_reader
from longrec.serving.stores.checks import CHECK, event_check, seal
from longrec.serving.stores.encoding import pack_event
from longrec.serving.stores.lmdb_tables import EVENT_KEY, HEAD, LOG_KEY, Tables
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import HEADER, Append, Event, Put, Store
from longrec.serving.stores.redis_layout import pack_head
from longrec.serving.stream.catch_up import bitmap


def kinds(found: Verified) -> dict[str, tuple[int, tuple[bytes, ...]]]:
    return {p.kind: (p.number, p.users) for p in found.problems}


def tamper(folder: Path, change: Callable[[lmdb.Transaction, Tables], None]) -> None:
    """Change a closed store's file behind its back."""
    [path] = folder.glob("*.mdb")
    env = lmdb.open(str(path), subdir=False, max_dbs=len(Tables._fields), map_size=2**30)
    tables = Tables(*(env.open_db(name.encode(), create=False) for name in Tables._fields))
    with env.begin(write=True) as transaction:
        change(transaction, tables)
    env.close()


def log_id_of(transaction: lmdb.Transaction, tables: Tables, user: bytes) -> int:
    return HEAD.unpack(transaction.get(user, db=tables.users))[0]


# ---- the structure


@settings(max_examples=15)
@given(logs=logs, page=st.integers(1, 5))
def test_a_whole_store_has_no_problems(logs, page) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_reader, "USERS", page)
        patch.setattr(log_reader, "EVENTS", page)
        store = open_store(folder, "process")
        serve(store)
        fill(store, logs)
        shown = []
        found = verify(store, progress=lambda done, total: shown.append((done, total)))
        events = sum(map(len, logs.values()))
        assert found.problems == ()
        assert (found.users, found.events) == (len(logs), events)
        assert found.records[MODEL] == len(logs)
        assert found.behind[MODEL] == 0
        assert not logs or shown[-1] == (events, events)
        store.close()


def test_records_that_are_behind_are_counted_and_no_problem(store) -> None:
    put_record(store, b"a", record(b"a", 19, 2))
    stored = store.read(MODEL, [(b"b", ())])[0]
    store.append(MODEL, [Append(b"b", stored.log_id, stored.last, 9, EVENTS[5:6], None, ())])
    store.append(MODEL, [Append(b"d", 0, 0, 0, EVENTS[:1], None, ())])
    found = verify(store)
    assert found.problems == ()
    assert (found.records[MODEL], found.behind[MODEL]) == (3, 3)


def drop_event(transaction: lmdb.Transaction, tables: Tables) -> None:
    log_id = log_id_of(transaction, tables, b"b")
    assert transaction.delete(EVENT_KEY.pack(log_id, 2), db=tables.log)


def drop_event_of_long(transaction: lmdb.Transaction, tables: Tables) -> None:
    log_id = log_id_of(transaction, tables, b"a")
    assert transaction.delete(EVENT_KEY.pack(log_id, 7), db=tables.log)


def drop_first(transaction: lmdb.Transaction, tables: Tables) -> None:
    log_id = log_id_of(transaction, tables, b"b")
    assert transaction.delete(EVENT_KEY.pack(log_id, 1), db=tables.log)


def drop_id(transaction: lmdb.Transaction, tables: Tables) -> None:
    log_id = log_id_of(transaction, tables, b"a")
    assert transaction.delete(LOG_KEY.pack(log_id) + b"id19", db=tables.ids)


def double_id(transaction: lmdb.Transaction, tables: Tables) -> None:
    log_id = log_id_of(transaction, tables, b"a")
    twice = pack_event(EVENTS[1]._replace(item=b"again"))
    check = CHECK.pack(event_check(b"a", twice, 20))
    assert transaction.put(EVENT_KEY.pack(log_id, 20), check + twice, db=tables.log)


def foreign_events(transaction: lmdb.Transaction, tables: Tables) -> None:
    transaction.put(EVENT_KEY.pack(10**6, 1), pack_event(EVENTS[0]), db=tables.log)


def foreign_record(transaction: lmdb.Transaction, tables: Tables) -> None:
    key = bytes.fromhex(MODEL) + LOG_KEY.pack(10**6)
    transaction.put(key, record(b"a", 1), db=tables.records)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (drop_event, {"event": (1, (b"b",))}),
        (drop_event_of_long, {"event": (1, (b"a",))}),
        (drop_first, {"event": (1, (b"b",))}),
        (drop_id, {"ids": (1, (b"a",))}),
        (double_id, {"ids": (1, (b"a",))}),
        (foreign_events, {"events": (1, ())}),
        (foreign_record, {"records": (1, ())}),
    ],
)
def test_a_tampered_log_is_found(store, tmp_path, monkeypatch, change, wanted) -> None:
    monkeypatch.setattr(log_reader, "EVENTS", 5)  # holes at and off the bounds of pages
    store.close()
    tamper(tmp_path / "store", change)
    again = open_store(str(tmp_path / "store"), readonly=True)
    found = verify(again)
    assert kinds(found) == wanted
    assert all(problem.mend and problem.words for problem in found.problems)
    again.close()


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (record(b"a", 21), "ahead"),
        (b"", "unreadable"),
        (b"rubbish", "unreadable"),
        (record(b"a", 20)[:-1], "unreadable"),
        (record(b"a", 20) + b"more", "unreadable"),
        (record(b"a", 20, digest=OTHER), "unreadable"),
        (record(b"a", 20, version=0), "unreadable"),
        (record(b"a", -1), "unreadable"),
    ],
)
def test_a_tampered_record_is_found(store, bad, kind) -> None:
    put_record(store, b"a", bad)
    assert kinds(verify(store)) == {kind: (1, (b"a",))}


def test_a_store_on_redis(tmp_path) -> None:
    with RedisServer(tmp_path) as server, server.client() as client:
        store = open_store(server.url)
        serve(store)
        fill(store, {b"a": EVENTS, b"b": EVENTS[:3]})
        assert verify(store).problems == ()
        log_id, other = (store.read(MODEL, [(user, ())])[0].log_id for user in (b"a", b"b"))
        assert client.delete(f"longrec:id:{log_id}:id19")
        assert client.get("longrec:user:b") == pack_head(b"b", other, 3)
        client.set("longrec:user:b", pack_head(b"b", other, 2))
        wanted = {"ids": (1, (b"a",)), "ahead": (1, (b"b",))}
        assert kinds(verify(store)) == wanted
        store.close()


def test_a_log_replaced_meanwhile_is_read_again(store, monkeypatch) -> None:
    monkeypatch.setattr(log_reader, "EVENTS", 5)
    real, calls = store.events, []

    def events(user: bytes, log_id: int, after: int, limit: int) -> list[Event]:
        if user == b"a" and after == 10 and not calls:
            calls.append(after)
            store.forget(user)
            fill(store, {user: EVENTS[:2], b"\xff\xff": EVENTS[:4]})
        return real(user, log_id, after, limit)

    monkeypatch.setattr(store, "events", events)
    found = verify(store)
    assert calls
    assert found.problems == ()
    assert (found.users, found.events) == (4, 2 + 3 + 6 + 4)


def test_a_half_restored_store_is_refused(store) -> None:
    store.change_meta(lambda meta: meta.update(restoring={"backup": "00"}))
    with pytest.raises(DataError, match="half restored"):
        verify(store)


# ---- against a replay

CASES = {
    "elastic": {},
    "elastic with a memory bank": {"memory_slots": 64, "memory_topk": 4, "memory_every": 5},
    "hydrarec": {"normalise": "count"},
    "sasrec": {},
}


@cache
def recommender(case: str) -> Recommender:
    name = case.split()[0]
    model = make(name, torch.float32, **CASES[case])
    catalog = Catalog(pl.Series(np.arange(100, 100 + N)), np.arange(N, dtype=np.int64))
    return Recommender(name, model, model.config, TrainConfig(), catalog)


@cache
def replay_of(case: str) -> Replay:
    return Replay(recommender(case))


def stored(folder: Path, case: str, lengths: tuple[int, ...] = (1, 30, 150)) -> Store:
    """A store whose records were stepped through their logs, one of them behind, one unknown."""
    replay, random = replay_of(case), np.random.default_rng(0)
    opened = open_store(str(folder))
    serve(opened, replay.digest, case)
    for number, length in enumerate(lengths):
        items = [b"%d" % item for item in random.integers(95, 100 + N, length)]
        times = random.integers(0, 10**6, length).tolist()
        events = [Event(t, item, None) for t, item in zip(times, items, strict=True)]
        done = length - number % 2
        indices = replay.items.find(items[:done])
        records = replay.engine.layout.load([None])
        for index, time in zip(indices, times, strict=False):
            replay.engine.advance(records, [[(index, time)]])
        records["version"] = 1
        user = b"u%d" % number
        append = Append(user, 0, 0, 0, events[:done], replay.engine.dump(records, 0, user), indices)
        seen = [index for index in indices if index]
        assert opened.append(replay.digest, [append._replace(seen=seen)])[0].current
        log_id = opened.read(replay.digest, [(user, ())])[0].log_id
        if done < length:
            late = Append(user, log_id, done, 0, events[done:], None, ())
            opened.append(replay.digest, [late])
    return opened


@pytest.mark.parametrize("case", CASES)
def test_records_are_those_of_the_log(tmp_path, case) -> None:
    store = stored(tmp_path, case)
    found = verify(store, replay_of(case))
    assert found.problems == ()
    assert (found.compared, found.outdated) == (3, 0)
    assert found.behind[recommender(case).state_digest] == 1
    store.close()


@pytest.mark.parametrize("case", ["elastic", "elastic with a memory bank", "hydrarec"])
def test_every_part_of_a_state_is_held_against_the_log(tmp_path, case) -> None:
    store = stored(tmp_path, case, (150,))
    replay = replay_of(case)
    engine = replay.engine
    whole = store.read(engine.digest, [(b"u0", ())], seen=True)[0]
    for name in ["skipped", "late", *engine.layout.fields]:
        bad = engine.layout.load([whole.record])
        if bad[name].dtype.kind == "f":
            bad[name] = 1.5 * bad[name] + 0.5
        else:
            bad[name] = 10**9 if "slots" in name else bad[name] - 1
        bad["version"] += 1
        write(store, engine.digest, b"u0", engine.dump(bad, 0, b"u0"), whole.seen)
        assert kinds(verify(store, replay)) == {"differing": (1, (b"u0",))}, name
    write(store, engine.digest, b"u0", whole.record, whole.seen)
    assert verify(store, replay).problems == ()
    store.close()


def write(store: Store, digest: str, user: bytes, new: bytes, seen: bytes) -> None:
    stored = store.read(digest, [(user, ())])[0]
    assert store.put(digest, [Put(user, stored.log_id, stored.version, new, seen)]) == 1


@pytest.mark.parametrize("change", [lambda s: s | {3}, lambda s: set(list(s)[1:]), lambda s: set()])
def test_a_tampered_bitmap_is_found(tmp_path, change) -> None:
    store = stored(tmp_path, "elastic", (2, 9))
    replay = replay_of("elastic")
    before = store.read(replay.digest, [(b"u0", ())], seen=True)[0]
    bits = np.unpackbits(np.frombuffer(before.seen, np.uint8), bitorder="little")
    changed = change(set(np.flatnonzero(bits).tolist()))
    write(
        *(store, replay.digest, b"u0", before.record),
        bitmap(np.array(sorted(changed), np.int64)),
    )
    assert kinds(verify(store, replay)) == {"bitmap": (1, (b"u0",))}
    store.close()


def test_items_known_since_are_told_and_no_problem(tmp_path) -> None:
    store = stored(tmp_path, "elastic", (150,))
    more = recommender("elastic").with_items([95, 96])
    found = verify(store, Replay(more))
    assert found.problems == ()
    assert (found.compared, found.outdated) == (1, 1)
    store.close()


def test_records_of_another_model_are_not_compared(store) -> None:
    with pytest.raises(UsageError, match=r"no records of this elastic .* only of elastic"):
        verify(store, replay_of("elastic"))


def test_a_record_of_another_size_is_unreadable(tmp_path) -> None:
    store = stored(tmp_path, "hydrarec", (5,))
    replay = replay_of("hydrarec")
    before = store.read(replay.digest, [(b"u0", ())], seen=True)[0]
    size = len(before.record) - 8
    parts = list(HEADER.unpack_from(before.record))
    parts[1] = size
    short = HEADER.pack(*parts) + before.record[HEADER.size : size]
    write(store, replay.digest, b"u0", seal(b"u0", short), before.seen)
    assert kinds(verify(store, replay)) == {"unreadable": (1, (b"u0",))}
    store.close()
