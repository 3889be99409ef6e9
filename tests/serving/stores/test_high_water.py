"""A store that has less than it acknowledged says so, and goes on."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from serving.maintenance.small_stores import EVENTS, fill, serve
from serving.redis_server import RedisServer
from serving.stores.store_properties import event, log
from typer.testing import CliRunner

from longrec.cli.app import app
from longrec.core.errors import DataError
from longrec.serving.maintenance.backup import backup
from longrec.serving.maintenance.verify import verify
from longrec.serving.stores import lmdb_folder
from longrec.serving.stores.high_water import UNREADABLE, HighWater, Loss, Mark, loss, path_of
from longrec.serving.stores.open import open_store


def test_a_mark_is_what_was_written_last_or_none(tmp_path: Path) -> None:
    path = tmp_path / "there" / "mark"
    mark = HighWater(path)
    assert mark.read() is None
    for writes in (3, 2**40, 7):
        mark.write(Mark(5, writes, writes + 1), wait=writes == 7)
        assert HighWater(path).read() == Mark(5, writes, writes + 1)
    whole = path.read_bytes()
    for new in (b"", whole[:9], bytes(len(whole))):
        path.write_bytes(new)
        assert mark.read() is None
    for bad in (whole[:-1], whole + b"x", b"x" + whole[1:], whole[:20] + b"\xff" + whole[21:]):
        path.write_bytes(bad)
        assert mark.read() is UNREADABLE
    mark.close()
    nowhere = HighWater(tmp_path / "there" / "mark" / "below a file")
    nowhere.write(Mark(1, 1))  # a store does not fail by its mark
    assert nowhere.read() is None


def test_what_a_mark_tells() -> None:
    assert loss(None, Mark(1, 5)) is None
    assert loss(Mark(1, 5), Mark(1, 5)) is None
    assert loss(Mark(1, 5), Mark(1, 6)) is None, "it was not written yet"
    assert loss(Mark(1, 5), Mark(2, 3)) is None, "of another store"
    assert loss(Mark(1, 5), Mark(1, 3)) == Loss(2)
    assert loss(Mark(1, 5, 7), Mark(1, 5, 7)) is None, "in the same run of the machine"
    assert loss(Mark(1, 5, 7), Mark(2, 3, 8)) == Loss(0, torn=True)
    assert path_of("redis://a:1/0") != path_of("redis://a:1/1")


# ---- LMDB


@pytest.mark.parametrize("damage", ["another file", "a bit", "cut short", "zeros", "gone"])
def test_a_damaged_or_missing_mark_is_told(damage, tmp_path, caplog) -> None:
    url = f"lmdb://{tmp_path}/store"
    store = open_store(url)
    log(store, b"u", event(1))
    store.close()
    file = tmp_path / "store" / "high-water"
    whole = file.read_bytes()
    damaged = {
        "another file": b"x" * 36,
        "a bit": whole[:20] + bytes([whole[20] ^ 4]) + whole[21:],
        "cut short": whole[:9],
        "zeros": bytes(len(whole)),
        "gone": None,
    }
    file.unlink()
    if (content := damaged[damage]) is not None:
        file.write_bytes(content)
    told = CliRunner().invoke(app, ["store", "verify", url])
    assert told.exit_code == 1
    assert "counts what it acknowledged is damaged or gone" in " ".join(told.stdout.split())
    caplog.clear()
    store = open_store(url)
    assert "counts what it acknowledged is damaged or gone" in caplog.text
    assert store.damage.counts == {"cut": 1}
    store.close()
    again = open_store(url)
    assert not again.damage.counts
    assert [problem.kind for problem in verify(again).problems] == ["losses"]
    again.close()


def test_a_store_without_users_needs_no_mark(tmp_path, caplog) -> None:
    """As a crash leaves it before it was used."""
    url = f"lmdb://{tmp_path}/store"
    open_store(url).close()
    (tmp_path / "store" / "high-water").unlink()
    open_store(url).close()
    assert not caplog.records


def roll_back(file: Path) -> None:
    """Let LMDB find the transaction before the last one, as after a torn page."""
    content = bytearray(file.read_bytes())
    numbers = [int.from_bytes(content[p + 144 : p + 152], "little") for p in (0, 4096)]
    later = 4096 * (numbers[1] > numbers[0])
    content[later + 144 : later + 152] = (min(numbers) - 1).to_bytes(8, "little")
    file.write_bytes(content)


def test_lmdb_that_went_back_says_so_and_goes_on(tmp_path, caplog) -> None:
    url = f"lmdb://{tmp_path}/store"
    store = open_store(url)
    serve(store)
    for number in range(5):
        fill(store, {b"u": EVENTS[number : number + 1]})
    assert verify(store).problems == ()
    store.close()
    [file] = (tmp_path / "store").glob("*.mdb")
    roll_back(file)
    tool, words = CliRunner(), ["store", "verify", url, "--json"]
    told = tool.invoke(app, words)
    assert told.exit_code == 1
    assert "cut short: the last 1 writes" in told.stdout
    caplog.clear()
    store = open_store(url)
    assert "cut short: the last 1 writes" in caplog.text
    assert store.damage.counts == {"cut": 1}
    [noted] = store.meta()["losses"]
    assert noted["writes"] == 1
    fill(store, {b"u": EVENTS[4:5]})
    store.close()
    caplog.clear()
    again = open_store(url)
    assert not again.damage.counts
    assert [(p.kind, p.number) for p in verify(again).problems] == [("losses", 1)]
    again.close()
    assert not caplog.records
    assert tool.invoke(app, words).exit_code == 1
    assert tool.invoke(app, [*words, "--accept-losses"]).exit_code == 0
    assert tool.invoke(app, words).exit_code == 0


def test_lmdb_after_compaction_a_copy_or_an_older_file(tmp_path) -> None:
    """The mark is of one file, and an older one in its place is less than was acknowledged."""
    url = f"lmdb://{tmp_path}/store"
    store = open_store(url)
    log(store, b"u", event(1))
    store.close()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    store = open_store(url)
    log(store, b"u", event(2))
    store.compact()
    log(store, b"u", event(3))
    store.close()
    for good in ("store", "copy"):
        opened = open_store(f"lmdb://{tmp_path}/{good}")
        assert not opened.damage.counts
        opened.close()
    file = tmp_path / "copy" / "store-1.mdb"
    older = file.read_bytes()
    store = open_store(f"lmdb://{tmp_path}/copy")
    for number in range(2, 5):
        log(store, b"u", event(number))
    store.close()
    file.write_bytes(older)
    opened = open_store(f"lmdb://{tmp_path}/copy")
    assert opened.meta()["losses"][0]["writes"] == 3
    opened.close()


def test_lmdb_that_waited_for_no_disk_in_a_power_cut_says_so(tmp_path, caplog, monkeypatch) -> None:
    url = f"lmdb://{tmp_path}/store"
    store = open_store(url, "process")
    fill(store, {b"u%d" % n: EVENTS for n in range(50)})
    left = [f"lmdb://{shutil.copytree(tmp_path / 'store', tmp_path / name)}" for name in "abc"]
    store.close()
    open_store(left[0], "process").close()
    assert not caplog.records, "it was a kill, and all is there"
    monkeypatch.setattr(lmdb_folder, "machine_run", lambda: 2**62)
    for whole in (url, left[0]):
        open_store(whole).close()
        assert not caplog.records, "it was closed"
    reader = open_store(left[1], readonly=True)
    assert "it was open when the machine went down" in caplog.text
    assert [problem.kind for problem in verify(reader).problems] == ["pages"]
    reader.close()
    caplog.clear()
    store = open_store(left[1])
    assert store.damage.counts == {"cut": 1}
    log(store, b"u", event(1))
    store.close()
    again = open_store(left[1])
    assert not again.damage.counts
    [losses] = verify(again).problems
    assert losses.notes[0].endswith("what was not on the disk")
    again.close()
    [file] = (tmp_path / "c").glob("*.mdb")
    content = bytearray(file.read_bytes())
    used = next(place for place in range(8192, len(content), 4096) if content[place + 10] == 2)
    content[used : used + 4096] = bytes(4096)
    file.write_bytes(content)
    with pytest.raises(
        DataError, match=r"the machine went down.* It can be read still: back it up"
    ):
        open_store(left[2], "process")
    assert file.read_bytes() == content
    reader = open_store(left[2], readonly=True)
    backup(reader, tmp_path / "saved")
    reader.close()


# ---- Redis


@pytest.fixture
def server(tmp_path: Path) -> Any:
    preamble = {"aof_use_rdb_preamble": "no", "auto_aof_rewrite_percentage": "0"}
    with RedisServer(tmp_path / "redis", **preamble) as started:
        yield started


def cut_file(server: RedisServer, share: float) -> None:
    """Let the server lose the end of its append-only file, and start again."""
    server.kill()
    [file] = (server.folder / "appendonlydir").glob("*.incr.aof")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    server.start()


@pytest.mark.parametrize("living", [True, False])
def test_redis_that_lost_the_end_of_its_file_says_so_and_goes_on(server, caplog, living) -> None:
    store = open_store(server.url)
    serve(store)
    for number in range(9):
        log(store, b"u", event(number))
    if not living:
        store.close()
    cut_file(server, 0.6)
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        if not living:
            store = open_store(server.url)
        log(store, b"v", event(1))
        log(store, b"v", event(2))
    assert "cut short: the last" in caplog.text
    assert store.damage.counts == {"cut": 1}
    [noted] = store.meta()["losses"]
    assert 0 < noted["writes"] < 9
    assert {problem.kind for problem in verify(store).problems} == {"pages", "losses"}
    store.close()
    again = open_store(server.url, readonly=True)
    assert not again.damage.counts
    assert [problem.kind for problem in verify(again).problems] == ["losses"]
    again.close()


def test_redis_that_lost_all_says_so(server, caplog) -> None:
    store = open_store(server.url)
    log(store, b"u", event(1))
    store.close()
    with server.client() as client:
        client.flushall()
    with pytest.raises(Exception, match=r"no store of users under this prefix \(one with \d"):
        open_store(server.url, readonly=True)
    store = open_store(server.url)
    assert "a new store is begun (one with" in caplog.text
    log(store, b"u", event(1))
    store.close()
    caplog.clear()
    open_store(server.url).close()
    assert not caplog.records
