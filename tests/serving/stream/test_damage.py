"""Damage is found and never served: what is damaged is replayed, or skipped, and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving.redis_server import RedisServer
from serving.small_streams import FIRST, check_best, frame_of, quick_engine, small_stream

from longrec.core.errors import DataError
from longrec.serving.stores import damage
from longrec.serving.stores.lmdb_tables import EVENT_KEY, LOG_KEY, PAGE_KEY, OpenTables
from longrec.serving.stores.protocol import DAMAGED, Put
from longrec.serving.stream import stream as module
from longrec.serving.stream.stream import Stream

HISTORY = [(FIRST + n * 3 % 40, n) for n in range(12)]


@pytest.fixture(autouse=True)
def quick_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Engine", quick_engine)


@pytest.fixture
def stream(tmp_path: Path) -> Any:
    with small_stream("elastic", tmp_path / "store") as opened:
        opened.observe_many(frame_of((user, *one) for one in HISTORY for user in ("u", "v")))
        yield opened


def flipped(value: bytes, byte: int, bit: int = 3) -> bytes:
    changed = bytearray(value)
    changed[byte] ^= 1 << bit
    return bytes(changed)


def change_value(stream: Stream, table: str, key: bytes, change: Callable[[bytes], bytes]) -> None:
    """Change a value in an LMDB store behind its back."""

    def work(tables: OpenTables) -> None:
        handle = getattr(tables, table)
        tables.put(key, change(bytes(tables.get(key, db=handle))), db=handle)

    stream.store._folder.write(work)


def key_of(stream: Stream, user: bytes = b"u") -> bytes:
    log_id = stream.store.read(stream.engine.digest, [(user, ())])[0].log_id
    return bytes.fromhex(stream.engine.digest) + LOG_KEY.pack(log_id)


def damage_record(stream: Stream, user: bytes = b"u", byte: int = 200) -> None:
    change_value(stream, "records", key_of(stream, user), lambda value: flipped(value, byte))


@pytest.mark.parametrize("byte", [0, 5, 9, 17, 26, 40, 60, 300, -1])
def test_a_damaged_record_is_made_anew_from_the_log(stream, byte) -> None:
    damage_record(stream, byte=byte)
    check_best("elastic", stream.recommend("u"), HISTORY)
    counted = stream.stats()["damage"]["record"]
    assert counted >= 1
    check_best("elastic", stream.recommend("u"), HISTORY)  # written back
    assert stream.stats()["damage"]["record"] == counted


def test_an_event_after_damage_finds_the_whole_log_in_the_record(stream) -> None:
    damage_record(stream)
    assert stream.observe("u", FIRST + 1, 50).new
    assert stream.stats()["damage"] == {"record": 1}
    check_best("elastic", stream.recommend("u"), [*HISTORY, (FIRST + 1, 50)])
    assert stream.stats()["damage"] == {"record": 1}


def test_records_of_two_users_exchanged(stream) -> None:
    """Each is whole, and not this user's."""
    stream.observe("u", FIRST + 1, 50)
    keys, found = [key_of(stream, user) for user in (b"u", b"v")], []
    for key in keys:
        change_value(stream, "records", key, lambda value: found.append(value) or value)
    for key, value in zip(keys, found[::-1], strict=True):
        change_value(stream, "records", key, lambda _, value=value: value)
    check_best("elastic", stream.recommend("u"), [*HISTORY, (FIRST + 1, 50)])
    check_best("elastic", stream.recommend("v"), HISTORY)
    assert stream.stats()["damage"]["record"] >= 2


def test_a_record_ahead_of_its_log_is_made_anew(stream) -> None:
    digest = stream.engine.digest
    [stored] = stream.store.read(digest, [(b"u", ())])
    record = stream.engine.layout.load([stored.record])
    record["sequence"] += 1
    ahead = stream.engine.dump(record, 0, b"u")
    assert stream.store.put(digest, [Put(b"u", stored.log_id, stored.version, ahead, b"")])
    check_best("elastic", stream.recommend("u"), HISTORY)
    assert stream.observe("u", FIRST, 99).new
    assert stream.stats()["damage"] == {"record": 1}


@pytest.mark.parametrize("field", ["output", "layers.0.mixer.mean"])
def test_a_record_without_finite_results_is_made_anew(stream, field) -> None:
    """Its checksum is right: whoever wrote it computed so."""
    digest = stream.engine.digest
    [stored] = stream.store.read(digest, [(b"u", ())])
    record = stream.engine.layout.load([stored.record])
    names = [name for name in record.dtype.names if name == field or name.endswith("mean")]
    for name in [field] if field == "output" else names:
        record[name] = np.nan
    bad = stream.engine.dump(record, 0, b"u")
    assert stream.store.put(digest, [Put(b"u", stored.log_id, stored.version, bad, stored.seen)])
    if field != "output":
        assert stream.observe("u", FIRST + 1, 50).new
    wanted = HISTORY if field == "output" else [*HISTORY, (FIRST + 1, 50)]
    check_best("elastic", stream.recommend("u", exclude_seen=False), wanted, seen=False)
    assert stream.stats()["damage"] == {"result": 1}
    check_best("elastic", stream.recommend("u"), wanted)
    found = stream.rank(["v", "u", "nobody"], 5)
    assert np.isfinite(found.scores[:2]).all()
    assert stream.stats()["damage"] == {"result": 1}


def test_a_model_that_gives_no_finite_scores_gives_popular_items(stream, monkeypatch) -> None:
    read = stream.engine.read
    monkeypatch.setattr(
        stream.engine, "read", lambda *given: read(*given) * (np.nan if len(given[0]) else 1)
    )
    found = stream.recommend("u", 3, exclude_seen=False)
    assert found["policy"].to_list() == ["cold"] * 3
    assert np.isfinite(found["score"].to_numpy()).all()
    assert stream.stats()["damage"]["result"] == 2


@pytest.mark.parametrize("what", ["page", "list"])
def test_a_damaged_bitmap_is_made_anew_with_its_record(stream, what) -> None:
    key = key_of(stream)
    key = key + PAGE_KEY.pack(0, 0)[8:] if what == "page" else key
    change_value(stream, "seen", key, lambda value: flipped(value, 4))
    stream.observe("u", FIRST + 1, 50)
    history = [*HISTORY, (FIRST + 1, 50)]
    check_best("elastic", stream.recommend("u"), history)
    counted = stream.stats()["damage"]
    assert counted["bitmap"] == 1
    check_best("elastic", stream.recommend("u"), history)
    assert stream.stats()["damage"] == counted


@pytest.mark.parametrize("lost", [False, True])
def test_a_damaged_event_is_skipped_and_the_rest_goes_on(stream, lost) -> None:
    """It counts as one of an item that the model does not know."""
    log_id = stream.store.read(stream.engine.digest, [(b"u", ())])[0].log_id
    key = EVENT_KEY.pack(log_id, 5)
    if lost:
        stream.store._folder.write(lambda tables: tables.delete(key, db=tables.log))
    else:
        change_value(stream, "log", key, lambda value: flipped(value, -1, 0))  # another item
    damage_record(stream)
    rest = HISTORY[:4] + HISTORY[5:]
    check_best("elastic", stream.recommend("u"), rest)
    found = stream.store.events(b"u", log_id, 0, 99)
    assert [number for number, event in enumerate(found, 1) if event is DAMAGED] == [5]
    assert stream.stats()["damage"]["event"] >= 1
    [stored] = stream.store.read(stream.engine.digest, [(b"u", ())])
    assert stream.engine.layout.load([stored.record])["skipped"] == 1
    stream.observe("u", FIRST + 1, 50)
    stream.rebuild()
    check_best("elastic", stream.recommend("u"), [*rest, (FIRST + 1, 50)])
    check_best("elastic", stream.recommend("v"), HISTORY)


def test_of_a_user_whose_log_cannot_be_found_others_know_nothing(stream) -> None:
    change_value(stream, "users", b"u", lambda value: flipped(value, 7))
    for call in (lambda: stream.recommend("u"), lambda: stream.observe("u", FIRST, 99)):
        with pytest.raises(DataError, match=r"the log cannot be found.*store verify"):
            call()
    both = stream.writer.write([[stream.writer.entry(user, FIRST, 60)] for user in ("u", "v")])
    assert isinstance(both[0], DataError)
    assert both[1][0].new
    stream.rebuild()
    check_best("elastic", stream.recommend("v"), [*HISTORY, (FIRST, 60)])
    assert stream.forget("u")
    assert stream.observe("u", FIRST, 1).new
    check_best("elastic", stream.recommend("u"), [(FIRST, 1)])


def test_damage_is_told_once_a_second_without_ids(stream, caplog, monkeypatch) -> None:
    clock = iter([10.0, 10.1, 10.2, 11.1])
    monkeypatch.setattr(damage.time, "monotonic", lambda: next(clock, 11.1))
    with caplog.at_level(logging.ERROR, damage.log.name):
        for number in range(4):
            stream.store.damage.note("event", where=f"event {number} of log 7")
    [first, second] = [record.getMessage() for record in caplog.records]
    assert "1 events of logs" in first
    assert "(the last: event 0 of log 7)" in first
    assert "3 events of logs" in second
    assert "longrec store verify" in second


def test_damage_in_redis(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path, appendfsync="everysec") as server,
        server.client() as client,
        small_stream("elastic", server.url) as stream,
    ):
        stream.observe_many(frame_of((user, *one) for one in HISTORY for user in ("u", "v")))
        log_id = stream.store.read(stream.engine.digest, [(b"u", ())])[0].log_id
        digest = stream.engine.digest
        for key, byte, kind in (
            (f"longrec:record:{digest}:{log_id}", 100, "record"),
            (f"longrec:seen:{digest}:{log_id}:0", 4, "bitmap"),
            (f"longrec:pages:{digest}:{log_id}", 4, "bitmap"),
        ):
            client.set(key, flipped(client.get(key), byte))
            check_best("elastic", stream.recommend("u"), HISTORY)
            assert stream.stats()["damage"].pop(kind) >= 1
            check_best("elastic", stream.recommend("u"), HISTORY)
        block = f"longrec:log:{log_id}:0"
        whole = client.get(block)
        size = len(whole) // 12
        for byte in (0, 5, size - 1):  # size, checksum and item of the first event
            client.set(block, flipped(whole, byte))
            client.delete(f"longrec:record:{digest}:{log_id}")
            check_best("elastic", stream.recommend("u"), HISTORY[1:])
            assert stream.store.events(b"u", log_id, 0, 99).count(DAMAGED) == 1
        client.set(block, whole)
        client.set("longrec:user:u", flipped(client.get("longrec:user:u"), 0, 0))
        with pytest.raises(DataError, match="the log cannot be found"):
            stream.recommend("u")
        assert stream.forget("u")
        check_best("elastic", stream.recommend("v"), HISTORY)
        assert client.exists(block)
        stream.store.compact()
        assert not client.exists(block)
        assert not list(client.scan_iter(f"longrec:*:{log_id}:*"))
