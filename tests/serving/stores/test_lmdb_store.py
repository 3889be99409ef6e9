from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import lmdb
import pytest
from serving.preloaded import Preloaded
from serving.stores.lmdb_jobs import DIGEST, send, user_of
from serving.stores.store_properties import StoreContract, event, events_of, kept, log, together
from serving.strace import need_strace

from longrec.errors import DataError, LongrecError, UsageError
from longrec.serving.stores import lmdb_file
from longrec.serving.stores.interface import Append, Event, StoreFull, open_store, read_header
from longrec.serving.stores.lmdb_store import LmdbStore


@pytest.fixture(scope="module")
def child():
    with Preloaded("lmdb_jobs") as preloaded:
        yield preloaded
        preloaded.kill()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "store")


@pytest.fixture
def store(path):
    opened = LmdbStore.open(path)
    yield opened
    opened.close()


def file_of(path: str) -> Path:
    [file] = Path(path).glob("store-*.mdb")
    return file


def all_events(store) -> list[bytes]:
    return [one.event_id for user in store.users(b"", 100) for one in events_of(store, user)]


class TestContract(StoreContract):
    """What every store does."""

    @pytest.fixture
    def make(self, tmp_path):
        return lambda name: open_store(f"lmdb://{tmp_path}/{name}", "process")


class TestContractWithPower(StoreContract):
    """The same, but for what would wait for the disk very often."""

    test_it_does_what_plain_dictionaries_do = None

    @pytest.fixture
    def make(self, tmp_path):
        return lambda name: open_store(f"{tmp_path}/{name}")


# One process writes.


def test_another_process_may_not_write(child, path):
    child.start("hold", path)
    assert child.line() == "open"
    with pytest.raises(LongrecError, match=r"another process writes to .*use Redis for several"):
        LmdbStore.open(path)
    child.kill()
    store = LmdbStore.open(path)
    assert all_events(store) == [b"event1"]
    store.close()


def test_stores_of_one_folder_share_it_in_a_process(path, tmp_path):
    first = LmdbStore.open(path)
    (tmp_path / "link").symlink_to(path)
    second = LmdbStore.open(str(tmp_path / "link"))
    reader = LmdbStore.open(path, readonly=True)
    log(first, b"u", event(1))
    assert events_of(second, b"u") == events_of(reader, b"u") == [event(1)]
    with pytest.raises(UsageError, match="durability 'power'"):
        LmdbStore.open(path, "process")
    first.close()
    first.close()
    with pytest.raises(UsageError, match="was closed"):
        first.meta()
    log(second, b"u", event(2))
    second.close()
    with pytest.raises(UsageError, match="readonly"):
        log(reader, b"u", event(3))
    reader.close()
    fourth = LmdbStore.open(path, "process")
    assert events_of(fourth, b"u") == [event(1), event(2)]
    fourth.close()


def test_who_reads_in_the_process_of_who_writes_later_stays_a_reader(path):
    LmdbStore.open(path).close()
    reader = LmdbStore.open(path, readonly=True)
    writer = LmdbStore.open(path, "process")
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


def test_a_fork_may_not_use_what_its_parent_opened(path, store):
    log(store, b"u", event(1))
    assert re.match("UsageError: .* before this process was forked", in_fork(store.meta))
    assert re.match("UsageError: .* forked", in_fork(lambda: LmdbStore.open(path)))
    assert in_fork(store.close) == "None"
    log(store, b"u", event(2))


def test_a_fork_that_lives_on_holds_no_lock(child, path):
    store = LmdbStore.open(path)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    store.close()
    child.start("hold", path)
    said = child.line()
    child.kill()
    os.close(writer)
    os.waitpid(pid, 0)
    assert said == "open"


# Others read beside it.


def test_a_reader_beside_the_writer_sees_one_moment_each_time(child, path):
    child.start("go_on", path, "process", 0, 1, True)
    assert child.line() is not None
    reader, files, last = LmdbStore.open(path, readonly=True), set(), {}
    while len(files) < 4:
        for user in reader.users(b"", 10):
            found = kept(reader, user)
            assert read_header(found.record).sequence == found.last >= last.get(user, 0)
            last[user] = found.last
            assert len(reader.events(user, found.born, 0, found.last)) == found.last
        files.add(max(os.listdir(path)))
        said = [child.line()]
    said += child.kill()
    # What was acknowledged before is there.
    assert {b"event%d" % number for number in range(int(said[-1]))} <= set(all_events(reader))
    reader.close()


def test_what_cannot_be_read_is_named(path, tmp_path):
    with pytest.raises(DataError, match="no store of users in this folder"):
        LmdbStore.open(path, readonly=True)
    assert not Path(path).exists()
    (tmp_path / "file").write_text("text")
    with pytest.raises(DataError, match="is a file"):
        LmdbStore.open(str(tmp_path / "file"))


# Damage is told, and nothing is made worse.


def filled(path: str, users: int = 300) -> None:
    store = LmdbStore.open(path, "process")
    events = [event(number) for number in range(20)]
    store.append(DIGEST, [Append(b"u%d" % n, 0, 0, 0, events, None, [n]) for n in range(users)])
    store.close()


@pytest.mark.parametrize("left", [0, 100, 4096, 8192, 0.3, 0.7, -1])
@pytest.mark.parametrize("readonly", [False, True])
def test_a_truncated_file_is_told(path, left, readonly):
    filled(path)
    file = file_of(path)
    size = file.stat().st_size
    # Whole pages, where it takes a look at all of them to see that some are missing; or parts.
    shares = {-1: size - 1, 0.3: int(0.3 * size), 0.7: int(0.7 * size) // 4096 * 4096}
    os.truncate(file, shares.get(left, left))
    before = hashlib.sha256(file.read_bytes()).digest()
    with pytest.raises(DataError, match=r"damaged.*restore"):
        LmdbStore.open(path, readonly=readonly)
    assert hashlib.sha256(file.read_bytes()).digest() == before


def test_files_of_others_are_told(path):
    filled(path)
    file = file_of(path)
    content = file.read_bytes()
    file.write_bytes(b"what is this" * 2000)
    with pytest.raises(DataError, match="no file of LMDB's"):
        LmdbStore.open(path)
    file.unlink()
    with lmdb.open(str(file), subdir=False, max_dbs=2) as env:
        env.open_db(b"something else")
    with pytest.raises(DataError, match="no store of users"):
        LmdbStore.open(path)
    file.write_bytes(content)
    store = LmdbStore.open(path)
    assert store.totals().users == 300
    store.close()


def test_a_store_of_a_newer_schema_is_left_as_it_is(path, store):
    log(store, b"u", event(1))
    store.change_meta(lambda meta: meta.update(schema=2))
    store.close()
    before = file_of(path).read_bytes()
    for readonly in (False, True):
        with pytest.raises(DataError, match="has schema 2, this longrec reads 1: upgrade"):
            LmdbStore.open(path, readonly=readonly)
    assert file_of(path).read_bytes() == before


# No room.


def test_a_full_file_holds_all_or_nothing_and_goes_on_with_room(child, path):
    child.start("fill", path, 400_000)
    said = child.rest()
    full = [line for line in said if line.startswith("full")]
    assert len(full) == 4, said
    assert all("no room to grow" in line and "Make room" in line for line in full)
    assert full[3].startswith("full compact")
    assert said[-1] == "left .lock store-1.mdb store-1.mdb-lock"
    refused = int(full[2].split()[1])
    assert refused >= 40
    store = LmdbStore.open(path)
    logged = sorted(int(name.removeprefix(b"event")) for name in all_events(store))
    assert logged == [*range(refused), *range(refused + 20, refused + 40)]
    for user in store.users(b"", 10):
        found = kept(store, user)
        assert read_header(found.record).sequence == found.last
    store.close()


def until_full(store, size: int) -> int:
    """Log events one by one until the store is full; -> how many it took."""
    for number in range(10_000):
        try:
            send(store, [number], size)
        except StoreFull:
            return number
    raise AssertionError("it was never full")


def test_a_full_disk_is_told_and_with_room_it_goes_on(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small disk")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(2**20))
        store = LmdbStore.open(str(disk / "store"))
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


def test_a_full_map_is_told(path, monkeypatch):
    monkeypatch.setattr(lmdb_file, "MAPS", [2**20])
    store = LmdbStore.open(path)
    done = until_full(store, 3000)
    with pytest.raises(StoreFull, match="address space"):
        send(store, [done], 3000)
    logged = all_events(store)
    assert len(logged) == done > 10
    store.close()
    monkeypatch.undo()
    store = LmdbStore.open(path)
    assert all_events(store) == logged
    send(store, [done], 3000)
    store.close()


def test_a_smaller_map_is_taken_where_the_process_gets_no_large_one(path, monkeypatch):
    monkeypatch.setattr(lmdb_file, "MAPS", [2**60, 2**24])
    store = LmdbStore.open(path)
    send(store, [1])
    assert all_events(store) == [b"event1"]
    store.close()


class Broken:
    """Stands for an environment that LMDB has given up."""

    def __init__(self, env) -> None:
        self.env, self.closed = env, False

    def begin(self, **options):
        raise lmdb.PanicError("mdb_txn_begin: MDB_PANIC")

    def close(self):
        self.closed = True
        self.env.close()


def test_an_environment_that_lmdb_gave_up_is_opened_anew(store):
    send(store, [1])
    for act in (lambda: send(store, [2]), lambda: store.append(DIGEST, []), store.users):
        broken = store._folder._env = Broken(store._folder._env)
        if act == store.users:
            assert store.users(b"", 9) == [user_of(1), user_of(2)]
        else:
            act()
        assert broken.closed
    assert sorted(all_events(store)) == [b"event1", b"event2"]


# Compacting.


def test_forgetting_and_compacting_leave_no_byte_of_a_user(path, store):
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
    content = file_of(path).read_bytes()
    assert len(content) == after < before
    assert b"forgotten" not in content
    stay = sorted(set(users) - set(forgotten))
    assert store.users(b"", 5000) == stay
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


def test_what_a_killed_compaction_left_is_deleted(path):
    filled(path)
    store = LmdbStore.open(path)
    store.compact()
    store.close()
    folder = Path(path)
    for name in ("store-1.mdb", "store-1.mdb-lock", "store-3.tmp"):
        shutil.copy(folder / "store-2.mdb", folder / name)
    (folder / "store-of-shoes.mdb").write_text("not ours")
    reader = LmdbStore.open(path, readonly=True)
    assert reader.totals().users == 300
    assert len(os.listdir(folder)) == 7
    reader.close()
    LmdbStore.open(path).close()
    ours = [".lock", "store-2.mdb", "store-2.mdb-lock", "store-of-shoes.mdb"]
    assert sorted(os.listdir(folder)) == ours


# Killed at random instants, nothing that was acknowledged is lost.


def kill_and_look(child: Preloaded, path: str, kills: int) -> None:
    dice, acknowledged, total = random.Random(kills), 0, 0
    for kill in range(kills):
        durability = ("power", "process")[kill % 2]
        # It begins with what was sent and not acknowledged: a retry.
        child.start("go_on", path, durability, acknowledged, kill, kill % 4 > 1)
        if kill % 3:
            child.line()
        time.sleep(dice.random() * 0.03)
        said = child.kill()
        assert not [line for line in said if line.startswith("failed")]
        total += len(said)
        store = LmdbStore.open(path, durability)
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
    assert total > kills


def test_twenty_kills(child, path):
    kill_and_look(child, path, 20)


@pytest.mark.slow
def test_two_hundred_kills(child, path):
    kill_and_look(child, path, 200)


# "power" is real.


@pytest.mark.parametrize("durability", ["power", "process"])
def test_syncs_before_each_acknowledgement(path, tmp_path, durability):
    trace, groups = tmp_path / "trace", 12
    calls = "trace=fdatasync,fsync,openat,write,pwrite64,pwritev,close"
    need_strace()
    job = Path(__file__).with_name("lmdb_jobs.py")
    command = [sys.executable, job, path, durability, str(groups)]
    subprocess.run(
        ["strace", "-f", "-y", "-e", calls, "-o", trace, *command],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = trace.read_text()
    syncs = [
        len(re.findall(r"fdatasync\(\d+<.*store-1\.mdb>\) += 0", between))
        for between in re.split(r'write\(1<.*"(?:begin|acknowledged \d+)\\n"', lines)[1:-1]
    ]
    assert len(syncs) == groups
    if durability == "power":
        assert min(syncs) >= 1, syncs
        # And the page that makes a commit valid is written through.
        assert re.search(r"openat\(.*store-1\.mdb.*O_DSYNC", lines)
    else:
        assert not any(syncs)
