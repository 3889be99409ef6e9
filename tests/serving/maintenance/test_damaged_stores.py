"""Flipped bits are found; pages without content end no process, and the rest of them is saved."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import run_code
from serving.maintenance.flipped_bits import (
    STATE,
    flip_lmdb,
    flip_redis,
    in_fork,
    make,
    pages_in_use,
)
from serving.maintenance.small_stores import MODEL, content_of, logs_of, record
from serving.redis_server import RedisServer
from typer.testing import CliRunner

from longrec.cli.app import app
from longrec.core.errors import LongrecError
from longrec.serving.maintenance.backup import backup
from longrec.serving.maintenance.restore import restore
from longrec.serving.maintenance.verify import verify
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Append, Event


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store that nobody uses."""
    store = open_store(str(tmp_path / "store"), "process")
    make(store)
    store.close()
    return tmp_path / "store"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), appendfsync="everysec") as started:
        yield started


def trials(many: int) -> Any:
    """A thousand: python tests/serving/maintenance/flipped_bits.py 1000."""
    return pytest.param(many, marks=pytest.mark.slow)


@pytest.mark.parametrize("many", [8, trials(100)])
def test_bits_flipped_in_a_file_of_lmdb(tmp_path, many) -> None:
    """Those of free room that LMDB leaves in pages, which nothing reads, are counted apart."""
    found = flip_lmdb(tmp_path / "store", many, many)
    assert set(found) <= {
        "found, of what is held",
        "found, of free room",
        "no matter, of free room",
    }
    assert found["found, of what is held"] == many


@pytest.mark.parametrize("many", [20, trials(300)])
def test_bits_flipped_in_values_of_redis(server, many) -> None:
    """Of the number of writes, digits may go up and nothing is the matter."""
    with server.client() as client:
        client.flushall()
        found = flip_redis(server.url, client, many, many)
    assert set(found) <= {"found", "no matter, of a count"}
    assert found["found"] > 0.95 * many


# ---- pages without content


def zero(file: Path, page: int) -> bytes:
    """Zero a page; -> the whole file as it was."""
    content = file.read_bytes()
    with file.open("r+b") as opened:
        opened.seek(page * 4096)
        opened.write(bytes(4096))
    return content


def page_with(file: Path, text: bytes, kind: int = 2) -> int:
    """A page in use that is of some kind and has a text."""
    content = file.read_bytes()
    for page in pages_in_use(file):
        here = content[page * 4096 : page * 4096 + 4096]
        if here[10] == kind and text in here:
            return page
    raise AssertionError(f"no page has {text!r}")


def use(folder: Path) -> str:
    """What a server does, for users each: what is damaged fails, and alone."""
    try:
        store = open_store(str(folder), "process")
    except LongrecError as error:
        return type(error).__name__
    failed = 0
    for user in [b"user%d" % number for number in range(14)] + [b"new"]:
        for step in (_observe, lambda store, user: store.forget(user)):
            try:
                step(store, user)
            except LongrecError:
                failed += 1
    store.users(b"", 100)
    store.totals()
    store.close()
    return "some failed" if failed else "served"


def _observe(store: Any, user: bytes) -> None:
    [found] = store.read(MODEL, [(user, [b"1-1"])], seen=True)
    store.events(user, found.log_id, 0, 1000)
    after = record(user, found.last + 1, found.version + 1, extra=STATE)
    event = Event(1, b"i", b"once more")
    append = Append(user, found.log_id, found.last, found.version, [event], after, [5])
    store.append(MODEL, [append])


def keep(folder: Path, out: Path) -> tuple[str, ...]:
    """What is found, backed up and compacted of a store."""

    def outcome(work: Any, **how: Any) -> str:
        try:
            store = open_store(str(folder), "process", **how)
        except LongrecError as error:
            return type(error).__name__
        try:
            return work(store)
        finally:
            store.close()

    def verified(store: Any) -> str:
        return ",".join(problem.kind for problem in verify(store).problems)

    def saved(store: Any) -> str:
        copied = backup(store, out)
        return "lacks some" if copied.missing or copied.problems else "whole"

    def compacted(store: Any) -> str:
        store.compact()
        return "done"

    return (
        outcome(verified, readonly=True),
        outcome(saved, readonly=True),
        outcome(compacted),
    )


@pytest.mark.parametrize("share", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_a_page_without_content_ends_no_process(folder, tmp_path, share) -> None:
    [file] = folder.glob("*.mdb")
    kept, used = Counter[Any](), Counter[Any]()
    for number, page in enumerate(pages_in_use(file)[::share]):
        whole = zero(file, page)
        kept[in_fork(lambda n=number: keep(folder, tmp_path / f"backup{n}"))] += 1
        for new in folder.glob("store-*"):
            new.unlink()
        file.write_bytes(whole)
        zero(file, page)
        used[in_fork(lambda: use(folder))] += 1
        file.write_bytes(whole)
    assert not [what for what in (*kept, *used) if "ended by" in what], (kept, used)
    for found, saved, _ in kept:
        assert found, "nothing was found"
        assert found == "StoreDamaged" or saved == "lacks some" or found == "unreadable"
    assert {"served", "some failed"} & set(used)


def test_a_page_of_events_names_their_users_and_saves_the_rest(folder, tmp_path) -> None:
    store = open_store(str(folder), readonly=True)
    whole = logs_of(store)
    store.close()
    [file] = folder.glob("*.mdb")
    zero(file, page_with(file, b"item"))
    tool = CliRunner()
    told = tool.invoke(app, ["store", "verify", str(folder), "--json"])
    assert told.exit_code == 1
    problems = {p["problem"]: p for p in json.loads(told.stdout)["problems"]}
    lost = problems["events that are damaged or missing, and skipped"]
    places = list(zip(lost["users"], lost["events"], strict=True))
    assert len(places) == lost["number"] > 20
    out = tmp_path / "backup"
    told = tool.invoke(app, ["store", "backup", str(folder), str(out), "--json"])
    assert told.exit_code == 1
    missing = [(one["user"], one["event"]) for one in json.loads(told.stdout)["missing"]]
    assert missing == places
    told = tool.invoke(app, ["store", "compact", str(folder), "--json"])
    assert told.exit_code == 1
    assert "event" in told.stdout
    copy = open_store(str(tmp_path / "copy"))
    restore(out, copy)
    for store in (copy, open_store(str(folder))):
        for user, (_, events) in whole.items():
            gone = {number for name, number in places if name.encode() == user}
            rest = [event for number, event in enumerate(events, 1) if number not in gone]
            saved = logs_of(store)[user][1] if user in logs_of(store) else []
            assert [event for event in saved if event.item] == rest
        store.close()


# ---- what only reads changes nothing


def state_of(folder: Path) -> dict[str, Any]:
    """Names, content, times and modes of what is in a folder, but LMDB's table of readers."""
    return {
        str(path): (
            path.read_bytes() if path.is_file() else None,
            *(path.stat().st_mtime_ns, stat.filemode(path.stat().st_mode), path.stat().st_uid),
        )
        for path in [folder, *folder.iterdir()]
        if not path.name.endswith("-lock")
    }


OPEN_AND_WAIT = """
import sys, time
from longrec.serving.stores.open import open_store
store = open_store(sys.argv[1])
print("open", flush=True)
time.sleep(600)
"""
WRITE_ON = """
import sys
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Event
from serving.maintenance.small_stores import fill
store = open_store(sys.argv[1], "process")
for n in range(60):
    fill(store, {b"late%d" % n: [Event(n, b"i", None)] * 20})
"""
READING = (
    ["info"],
    ["verify"],
    ["verify", "--show", "--json"],
    ["backup", "OUT"],
)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("damaged", [True, False])
def test_who_only_reads_changes_nothing(folder, tmp_path, live, damaged) -> None:
    writer = None
    if live:
        writer = run_code(OPEN_AND_WAIT, folder, text=True, stdout=subprocess.PIPE)
        assert writer.stdout.readline() == "open\n"
    else:
        for lock in folder.glob("*-lock"):
            lock.unlink()
    if damaged:
        [file] = folder.glob("*.mdb")
        zero(file, page_with(file, b"item"))
    before, names = state_of(folder), sorted(os.listdir(folder))
    for number, words in enumerate(READING):
        argv = [word.replace("OUT", str(tmp_path / f"out{number}")) for word in words]
        argv.insert(1, str(folder))
        told = CliRunner().invoke(app, ["store", *argv])
        assert told.exit_code == (words[0] != "info" and damaged), told.output
        assert state_of(folder) == before, words
        assert sorted(os.listdir(folder)) == names
    if writer is not None:
        writer.kill()
        writer.communicate()


def test_who_only_reads_changes_nothing_in_redis(server, tmp_path) -> None:
    with server.client() as client:
        client.flushall()
        store = open_store(server.url, "process")
        make(store)
        store.close()
        client.set("longrec:run", "of before")  # as after a restart
        before = {key: client.dump(key) for key in client.keys("*")}
        for number, words in enumerate(READING):
            argv = [word.replace("OUT", str(tmp_path / f"out{number}")) for word in words]
            argv.insert(1, server.url)
            assert CliRunner().invoke(app, ["store", *argv]).exit_code == 0
        assert {key: client.dump(key) for key in client.keys("*")} == before


def test_a_reader_that_began_alone_sees_what_a_writer_writes(folder) -> None:
    for lock in folder.glob("*-lock"):
        lock.unlink()
    reader = open_store(str(folder), readonly=True)
    before = content_of(reader)
    assert run_code(WRITE_ON, folder).wait() == 0
    after = content_of(reader)
    assert {user: after[user] for user in before} == before
    assert len(after) == len(before) + 60
    assert not reader.damage.counts
    reader.close()
