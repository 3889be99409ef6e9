"""What stores in files do alike: one process writes, others read; no room, compacting, kills."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from forking import ForkServer, kills
from serving.stores.embedded_jobs import DIGEST, send, until_full
from serving.stores.store_properties import (
    StoreContract,
    all_events,
    event,
    events_of,
    kept,
    log,
    together,
)
from serving.strace import need_strace

from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Append, Event, StoreFull, read_header


@pytest.fixture(scope="module")
def forks():
    with ForkServer("serving.stores.embedded_jobs") as server:
        yield server


@pytest.fixture(params=["lmdb", "sqlite"])
def scheme(request):
    return request.param


@pytest.fixture
def url(scheme, tmp_path):
    return f"{scheme}://{tmp_path}/store"


@pytest.fixture
def store(url):
    opened = open_store(url)
    yield opened
    opened.close()


def file_of(url: str) -> Path:
    """The file that holds a closed store."""
    path = Path(url.partition("://")[2])
    [file] = path.glob("store-*.mdb") if path.is_dir() else [path]
    return file


class TestContract(StoreContract):
    """What every store does."""

    @pytest.fixture
    def make(self, scheme, tmp_path):
        return lambda name: open_store(f"{scheme}://{tmp_path}/{name}", "process")


class TestContractWithPower(StoreContract):
    """The same, but for what would wait for the disk very often."""

    test_it_does_what_plain_dictionaries_do = None

    @pytest.fixture
    def make(self, scheme, tmp_path):
        return lambda name: open_store(f"{scheme}://{tmp_path}/{name}")


def test_another_process_may_not_write(forks, url):
    with forks.job("hold", url) as job:
        assert job.line() == "open"
        with pytest.raises(LongrecError, match=r"another process writes to .*use Redis for"):
            open_store(url)
    store = open_store(url)
    assert all_events(store) == [b"event1"]
    store.close()


def test_stores_of_one_place_share_it_in_a_process(url, scheme, tmp_path):
    first = open_store(url)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    second = open_store(f"{scheme}://{tmp_path}/link")
    reader = open_store(url, readonly=True)
    log(first, b"u", event(1))
    assert events_of(second, b"u") == events_of(reader, b"u") == [event(1)]
    with pytest.raises(UsageError, match="durability 'power'"):
        open_store(url, "process")
    first.close()
    first.close()
    with pytest.raises(UsageError, match="was closed"):
        first.meta()
    log(second, b"u", event(2))
    second.close()
    with pytest.raises(UsageError, match="readonly"):
        log(reader, b"u", event(3))
    reader.close()
    fourth = open_store(url, "process")
    assert events_of(fourth, b"u") == [event(1), event(2)]
    fourth.close()


def test_who_reads_in_the_process_of_who_writes_later_stays_a_reader(url):
    open_store(url).close()
    reader = open_store(url, readonly=True)
    writer = open_store(url, "process")
    log(writer, b"u", event(1))
    assert events_of(reader, b"u") == [event(1)]
    for write in (
        lambda: reader.append(DIGEST, []),
        lambda: reader.put(DIGEST, []),
        lambda: reader.rewrite([]),
        lambda: reader.forget(b"u"),
        lambda: reader.change_meta(dict.clear),
        lambda: reader.drop(DIGEST),
        reader.compact,
    ):
        with pytest.raises(UsageError, match="opened readonly"):
            write()
    writer.close()
    assert events_of(reader, b"u") == [event(1)]
    reader.close()


def in_fork(work) -> str:
    """What it returns or raises in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def test_a_fork_may_not_use_what_its_parent_opened(url, store):
    log(store, b"u", event(1))
    assert re.match("UsageError: .* before this process was forked", in_fork(store.meta))
    assert re.match("UsageError: .* forked", in_fork(lambda: open_store(url)))
    assert in_fork(store.close) == "None"
    log(store, b"u", event(2))


def test_a_fork_that_lives_on_holds_no_lock(forks, url):
    store = open_store(url)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    store.close()
    with forks.job("hold", url) as job:
        said = job.line()
    os.close(writer)
    os.waitpid(pid, 0)
    assert said == "open"


def test_a_reader_beside_the_writer_sees_one_moment_each_time(forks, url):
    with forks.job("go_on", url, "process", 0, 1, True) as job:
        assert job.line() is not None
        reader, compacted, last = open_store(url, readonly=True), 0, {}
        while compacted < 4:
            for user in reader.users(b"", 10):
                found = kept(reader, user)
                assert read_header(found.record).sequence == found.last >= last.get(user, 0)
                last[user] = found.last
                assert len(reader.events(user, found.born, 0, found.last)) == found.last
            compacted += job.line() == "compacted"
        numbers = [int(line) for line in job.killed() if line.isdigit()]
    # What was acknowledged before is there.
    acknowledged = {b"event%d" % number for number in range(max(numbers, default=0))}
    assert acknowledged <= set(all_events(reader))
    reader.close()


def test_a_store_of_a_newer_schema_is_left_as_it_is(url, store):
    log(store, b"u", event(1))
    store.change_meta(lambda meta: meta.update(schema=2))
    store.close()
    before = file_of(url).read_bytes()
    for readonly in (False, True):
        with pytest.raises(DataError, match="has schema 2, this longrec reads 1: upgrade"):
            open_store(url, readonly=readonly)
    assert file_of(url).read_bytes() == before


LEFT = {
    "lmdb": ".lock store-1.mdb store-1.mdb-lock",
    "sqlite": "store store-lock store-shm store-wal",
}


def test_a_full_file_holds_all_or_nothing_and_goes_on_with_room(forks, url, scheme, tmp_path):
    folder = tmp_path / "store" if scheme == "lmdb" else tmp_path
    with forks.job("fill", url, str(folder), 400_000) as job:
        said = job.lines()
    full = [line for line in said if line.startswith("full")]
    assert len(full) == 4, said
    assert all("no room to grow" in line and "Make room" in line for line in full)
    assert full[3].startswith("full compact")
    assert said[-1] == f"left {LEFT[scheme]}"
    refused = int(full[2].split()[1])
    assert refused >= 40
    store = open_store(url)
    logged = sorted(int(name.removeprefix(b"event")) for name in all_events(store))
    assert logged == [*range(refused), *range(refused + 20, refused + 40)]
    for user in store.users(b"", 10):
        found = kept(store, user)
        assert read_header(found.record).sequence == found.last
    store.close()


def test_a_full_disk_is_told_and_with_room_it_goes_on(scheme, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small disk")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(2**20))
        store = open_store(f"{scheme}://{disk}/store")
        done = until_full(store, 3000)
        assert done > 10
        with pytest.raises(StoreFull, match="no room to grow"):
            send(store, range(done, done + 50), 3000)
        assert sorted(all_events(store)) == sorted(b"event%d" % n for n in range(done))
        ballast.unlink()
        assert all(all(new) for new in send(store, range(done, done + 10), 3000))
        assert len(all_events(store)) == done + 10
    finally:
        store.close()
        subprocess.run(["umount", str(disk)], check=True)


def test_forgetting_and_compacting_leave_no_byte_of_a_user(url):
    store = open_store(url, "process")
    # Many, so that ids stand in the branch pages of LMDB's trees too.
    users = [b"%06d-%s" % (n, b"stays" if n % 3 else b"forgotten") for n in range(4000)]
    for start in range(0, len(users), 500):
        store.append(
            DIGEST,
            [
                Append(user, 0, 0, 0, [Event(1, b"item-" + user, b"id-" + user)], None, [])
                for user in users[start : start + 500]
            ],
        )
    forgotten = [user for user in users if user.endswith(b"forgotten")]
    assert all(store.forget(user) for user in forgotten)
    before, after = store.compact()
    stay = store.users(b"", 5000)
    store.close()
    content = file_of(url).read_bytes()
    assert len(content) == after < before
    assert b"forgotten" not in content
    assert stay == sorted(set(users) - set(forgotten))
    for prefix in (b"item-", b"id-"):
        assert {prefix + user for user in stay} <= set(re.findall(prefix + rb"\d+-stays", content))


def test_threads_go_on_while_it_is_compacted(store):
    stop, sent = threading.Event(), [0, 0, 0]

    def write(worker: int) -> None:
        while not stop.is_set():
            number = worker + 3 * sent[worker]
            send(store, [number])
            sent[worker] += 1

    def read() -> None:
        while not stop.is_set():
            for user in store.users(b"", 10):
                found = kept(store, user)
                assert len(store.events(user, found.born, 0, found.last)) == found.last

    def compact() -> None:
        try:
            for round in range(1, 9):
                while min(sent) < 5 * round:
                    time.sleep(0.001)
                store.compact()
        finally:
            stop.set()

    together([lambda: write(0), lambda: write(1), lambda: write(2), read, read, compact])
    wanted = {b"event%d" % (worker + 3 * n) for worker in range(3) for n in range(sent[worker])}
    logged = all_events(store)
    assert (len(logged), set(logged)) == (len(wanted), wanted)


@pytest.mark.kills
def test_kills(forks, url):
    many = kills(4)
    dice, acknowledged, total = random.Random(many), 0, 0
    for kill in range(many):
        durability = ("power", "process")[kill % 2]
        # It begins with what was sent and not acknowledged: a retry.
        with forks.job("go_on", url, durability, acknowledged, kill, kill % 4 > 1) as job:
            said = [job.line() or "failed: it says nothing"] if kill % 3 else []
            time.sleep(dice.random() * 0.03)
            said = [line for line in said + job.killed() if line != "compacted"]
        assert not [line for line in said if line.startswith("failed")]
        total += len(said)
        store = open_store(url, durability)
        logged = all_events(store)
        assert len(set(logged)) == len(logged), "an event was logged twice"
        acknowledged = max(acknowledged, *(int(line) for line in said), 0)
        sent = {b"event%d" % number for number in range(len(logged))}
        assert set(logged) == sent, "events are missing in the middle"
        assert len(logged) >= acknowledged, "an acknowledged event was lost"
        for user in store.users(b"", 10):
            found = kept(store, user)
            events = events_of(store, user)
            assert events == sorted(events), "events stand in another order"
            assert read_header(found.record).sequence == found.last == len(events)
        store.close()
    assert total > many // 2


@pytest.mark.parametrize("durability", ["power", "process"])
def test_syncs_before_each_acknowledgement(url, scheme, tmp_path, durability):
    trace, groups = tmp_path / "trace", 12
    calls = "trace=fdatasync,fsync,openat,write,pwrite64,pwritev,close"
    need_strace()
    job = Path(__file__).with_name("embedded_jobs.py")
    command = [sys.executable, job, url, durability, str(groups)]
    subprocess.run(
        ["strace", "-f", "-y", "-e", calls, "-o", trace, *command],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = trace.read_text()
    file = {"lmdb": r"store-1\.mdb", "sqlite": "store-wal"}[scheme]
    syncs = [
        len(re.findall(rf"(?:fdatasync|fsync)\(\d+<.*{file}>\) += 0", between))
        for between in re.split(r'write\(1<.*"(?:begin|acknowledged \d+)\\n"', lines)[1:-1]
    ]
    assert len(syncs) == groups
    if durability == "process":
        assert not any(syncs)
    elif scheme == "sqlite":
        assert syncs == [1] * groups  # no more than one, which is what it is for
    else:
        assert min(syncs) >= 1, syncs
        # And the page that makes a commit valid is written through.
        assert re.search(r"openat\(.*store-1\.mdb.*O_DSYNC", lines)
