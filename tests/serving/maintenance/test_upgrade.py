"""Stores of before there were checksums are carried over by one command."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb
import pytest
from serving.maintenance.small_stores import EVENTS, MODEL, logs_of
from serving.redis_server import RedisServer
from simulation.crashes import lived
from simulation.disk import Disk
from typer.testing import CliRunner

from longrec.cli.app import app
from longrec.core.errors import DataError
from longrec.serving.maintenance.verify import verify
from longrec.serving.stores import redis_upgrade
from longrec.serving.stores.encoding import pack_event
from longrec.serving.stores.lmdb_upgrade import upgrade_folder
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Event

LOGS: dict[bytes, Sequence[Event]] = {
    b"a": EVENTS * 1,
    b"b": [Event(n, b"i%d" % n, b"e%d" % n, b'{"n":1}' if n % 2 else b"") for n in range(150)],
    b"\xff\x00": EVENTS[3:5],
}
META = {"schema": 2, "current": MODEL, "models": {MODEL: {"name": "elastic", "catalogs": []}}}


def write_lmdb(folder: Path) -> None:
    """A store as schema 2 had it."""
    folder.mkdir()
    tables = "meta", "users", "log", "ids", "records", "seen"
    with lmdb.open(str(folder / "store-3.mdb"), subdir=False, max_dbs=9, map_size=2**24) as env:
        handles = {name: env.open_db(name.encode()) for name in tables}
        with env.begin(write=True) as transaction:

            def put(table: str, key: bytes, value: bytes) -> None:
                transaction.put(key, value, db=handles[table])

            put("meta", b"meta", json.dumps(META).encode())
            put("meta", b"born", struct.pack(">Q", 9))
            for log_id, (user, events) in enumerate(reversed(LOGS.items()), 4):
                born = struct.pack(">Q", log_id)
                put("users", user, born)
                for number, event in enumerate(events, 1):
                    put("log", born + struct.pack(">Q", number), pack_event(event))
                    if event.event_id is not None:
                        put("ids", born + event.event_id, b"")
                put("records", bytes.fromhex(MODEL) + born, b"LRU1 of before")
                put("seen", bytes.fromhex(MODEL) + born + bytes(4), b"\x02")


def write_redis(client: Any) -> None:
    """The same in Redis."""
    client.set("longrec:meta", json.dumps(META))
    client.set("longrec:born", 9)
    client.sadd("longrec:digests", MODEL)
    for log_id, (user, events) in enumerate(LOGS.items(), 4):
        client.zadd("longrec:users", {user: 0})
        client.set(b"longrec:user:" + user, b"%d %d" % (log_id, len(events)))
        for start in range(0, len(events), 64):
            packed = map(pack_event, events[start : start + 64])
            block = b"".join(struct.pack("<I", len(one)) + one for one in packed)
            client.set(f"longrec:log:{log_id}:{start // 64}", block)
        for event in events:
            if event.event_id is not None:
                client.set(b"longrec:id:%d:%b" % (log_id, event.event_id), b"")
        client.set(f"longrec:record:{MODEL}:{log_id}", b"LRU1 of before")
        client.set(f"longrec:pages:{MODEL}:{log_id}", bytes(4))
        client.set(f"longrec:seen:{MODEL}:{log_id}:0", b"\x02")


def check_carried_over(url: str) -> None:
    """It has the logs, and no records; and is whole."""
    store = open_store(url, "process")
    found = logs_of(store)
    assert {user: events for user, (_, events) in found.items()} == {
        user: list(events) for user, events in LOGS.items()
    }
    assert None not in [known for stored, _ in found.values() for known in stored.known]
    assert verify(store).problems == ()
    assert store.totals().records == {}
    meta = store.meta()
    assert (meta["schema"], meta["current"], meta["models"]) == (3, MODEL, META["models"])
    store.close()


def upgrade(url: str) -> Any:
    return CliRunner().invoke(app, ["store", "upgrade", url, "--json"])


def test_in_lmdb(tmp_path) -> None:
    url = f"lmdb://{tmp_path}/old"
    write_lmdb(tmp_path / "old")
    with pytest.raises(DataError, match=r"longrec store upgrade lmdb:///.*nothing was changed"):
        open_store(url)
    told = json.loads(upgrade(url).stdout)
    assert told == {"url": url, "users": 3, "events": sum(map(len, LOGS.values()))}
    check_carried_over(url)
    assert [path.name for path in (tmp_path / "old").glob("*.mdb")] == ["store-4.mdb"]
    assert "needs no upgrade" in str(upgrade(url).exception)


@pytest.mark.slow
def test_in_lmdb_and_crashed_at_every_instant(tmp_path) -> None:
    disk, dice, found = Disk(), random.Random(0), Counter[str]()

    def carry_over(folder: Path) -> None:
        upgrade_folder(str(folder / "old"))

    def check(folder: Path) -> None:
        words = ""
        try:
            open_store(str(folder / "old")).close()
        except DataError as error:
            words = str(error)
        found["old" if words else "new"] += 1
        if words:
            assert "carry it over" in words
            carry_over(folder)
        check_carried_over(str(folder / "old"))

    write_lmdb(tmp_path / "old")
    disk.follow(lived(disk, lambda folder: shutil.copytree(tmp_path / "old", folder / "old")))
    disk.settle()
    for entry in lived(disk, carry_over):
        for left in (disk.killed(dice, entry), *(disk.cut(dice, entry) for _ in range(3))):
            lived(left, check)
        disk.take(entry)
    assert min(found.values()) > 3, found


def test_in_redis_and_killed_between(tmp_path, monkeypatch) -> None:
    with RedisServer(tmp_path, appendfsync="everysec") as server, server.client() as client:
        write_redis(client)
        with pytest.raises(DataError, match=r"longrec store upgrade redis://.*nothing was"):
            open_store(server.url, "process")
        real, calls = redis_upgrade.log_pairs, []

        def pairs(*given: Any) -> Any:
            calls.append(given)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(redis_upgrade, "log_pairs", pairs)
            assert "the same command goes on" in str(upgrade(server.url).exception)
        with pytest.raises(DataError, match="half carried over"):
            open_store(server.url, "process")
        told = upgrade(server.url)
        assert json.loads(told.stdout)["users"] == 3, told.exception
        check_carried_over(server.url)
        left = [key for key in client.keys("*") if b":4:" in key or key.endswith(b":4")]
        assert not left, "what was of the old logs is deleted"
        assert "needs no upgrade" in str(upgrade(server.url).exception)
