from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest
from serving.stores import store_jobs
from serving.stores.store_jobs import (
    DIGEST,
    USERS,
    event_of,
    make_store,
    send_numbers,
    send_until_full,
)
from serving.stores.store_properties import StoreContract, all_events, event, events_of, log
from serving.stores.store_survival import SurvivalContract, check_logs
from serving.strace import need_strace

from longrec.core.choices import Durability
from longrec.core.errors import DataError, LongrecError, UsageError
from longrec.serving.stores import lmdb_file, lmdb_folder
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Store, StoreFull


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def url(path):
    return f"lmdb://{path}"


@pytest.fixture
def store(url):
    store = open_store(url)
    yield store
    store.close()


def file_of(path: Path) -> Path:
    [file] = path.glob("store-*.mdb")
    return file


class LmdbBackend:
    kills = 4
    record_may_lag = False

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, f"lmdb://{path}"

    def content(self):
        if not self.path.is_dir():
            return self.path.exists()
        return {file: file.read_bytes() for file in self.path.glob("*.mdb")}

    def files(self) -> list[bytes]:
        return [file.read_bytes() for file in self.path.iterdir()]

    def damage(self) -> Iterator[str]:
        file = file_of(self.path)
        file.write_bytes(b"what is this" * 2000)
        yield r"damaged or no store of users \(.*not an LMDB file"
        file.unlink()
        with lmdb.open(str(file), subdir=False, max_dbs=2) as env:
            env.open_db(b"something else")
        yield "no store of users"
        shutil.rmtree(self.path)
        self.path.write_text("text")
        yield "is a file"

    @contextmanager
    def fill(self, store: Store) -> Iterator[str]:
        """Files may not grow by more than a little."""
        size = store.totals().bytes
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 400_000, before[1]))
        try:
            yield "no room to grow.*Make room"
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
            with pytest.raises(StoreFull, match=r"no room to grow.*Make room"):
                store.compact()
            assert sorted(os.listdir(self.path)) == [
                *(".lock", "high-water", "store-1.mdb", "store-1.mdb-lock")
            ]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def strike(self, kill: int) -> None:
        """Nothing belongs to it but its client."""

    def recover(self) -> None:
        """Nothing has ended."""

    def trace(self, durability: Durability, calls: int) -> list[int]:
        need_strace()
        trace = self.path.with_name("trace")
        traced = "trace=fdatasync,fsync,openat,write,pwrite64,pwritev,close"
        job = [sys.executable, store_jobs.__file__, self.url, durability, str(calls)]
        subprocess.run(
            ["strace", "-f", "-y", "-e", traced, "-o", trace, *job],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        text = trace.read_text()
        between = re.split(r'write\(1<.*"(?:begin|acknowledged \d+)\\n"', text)[1:-1]
        pattern = r"(?:fdatasync|fsync)\(\d+<.*store-1\.mdb>\) += 0"
        syncs = [len(re.findall(pattern, calls)) for calls in between]
        if durability == "process":
            assert not any(syncs)
        else:  # the page that makes a commit valid is written through
            assert re.search(r"openat\(.*store-1\.mdb.*O_DSYNC", text)
        return syncs


class TestContract(StoreContract):
    """What every store does."""

    @pytest.fixture
    def open_named(self, tmp_path):
        return lambda name: open_store(f"lmdb://{tmp_path}/{name}", "process")


class TestContractWithPower(StoreContract):
    """The same, but for what would wait for the disk very often."""

    test_it_does_what_plain_dictionaries_do = None

    @pytest.fixture
    def open_named(self, tmp_path):
        return lambda name: open_store(f"lmdb://{tmp_path}/{name}")


class TestSurvival(SurvivalContract):
    @pytest.fixture
    def backend(self, path):
        return LmdbBackend(path)

    @pytest.fixture
    def make_backend(self):
        @contextmanager
        def make(folder, durability):
            yield LmdbBackend(folder)

        return make


# ---- one process writes, others read


def test_another_process_may_not_write(forks, url):
    with forks.job("open_and_wait", url) as job:
        assert job.line() == "open"
        with pytest.raises(LongrecError, match=r"another process writes to .*use Redis for"):
            open_store(url)
    store = open_store(url)
    assert all_events(store) == [event_of(0, 1).event_id]
    store.close()


def test_stores_of_one_folder_share_it_in_a_process(url, tmp_path):
    first = open_store(url)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    second = open_store(f"lmdb://{tmp_path}/link")
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
            answer = str(work())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def test_a_fork_may_not_use_what_its_parent_opened(url, store):
    log(store, b"u", event(1))
    assert re.match("UsageError: .* forked: open it here, too", in_fork(store.meta))
    assert in_fork(store.close) == "None"
    log(store, b"u", event(2))


def read_here(url) -> int:
    """How many events of a user a reader finds that is opened now."""
    reader = open_store(url, readonly=True)
    count = len(events_of(reader, b"u"))
    reader.close()
    return count


def test_a_fork_opens_its_own(url, store):
    log(store, b"u", event(1))
    assert in_fork(lambda: (read_here(url), read_here(url))) == "(1, 1)"
    assert re.match("LongrecError: another process writes", in_fork(lambda: open_store(url)))
    grandchild = in_fork(lambda: (read_here(url), in_fork(lambda: read_here(url))))
    assert grandchild == "(1, '1')"
    log(store, b"u", event(2))
    reader = open_store(url, readonly=True)
    assert in_fork(lambda: read_here(url)) == "2"
    reader.close()
    store.close()
    assert in_fork(lambda: log(open_store(url), b"u", event(3))) == "None"
    assert read_here(url) == 3


def test_forks_beside_threads_that_read_and_write(url, store):
    """Nobody's place in LMDB's table of readers is taken, and no fork waits for ever."""
    log(store, b"u", event(1))
    done, failed = threading.Event(), list[object]()

    def work(number) -> None:
        written = 1
        while not done.is_set():
            try:
                if not number:
                    written += 1
                    log(store, b"u", event(written))
                assert len(events_of(store, b"u")) >= written
            except BaseException as error:
                failed.append(error)
                return

    def fork() -> None:
        answers = [in_fork(lambda: read_here(url)) for _ in range(6)]
        failed.extend(answer for answer in answers if not answer.isdigit())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    forking = [threading.Thread(target=fork) for _ in range(2)]
    for thread in threads + forking:
        thread.start()
    for thread in forking:
        thread.join()
    done.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert read_here(url) > 1


def test_a_fork_within_a_transaction_says_that_it_cannot_open_the_store(url, store, monkeypatch):
    monkeypatch.setattr(lmdb_folder, "FORK_PATIENCE", 0.05)
    log(store, b"u", event(1))
    answer = store._folder.read(lambda tables: in_fork(lambda: read_here(url)))
    assert re.match("UsageError: .*was being read or written when this process was forked", answer)
    log(store, b"u", event(2))
    assert in_fork(lambda: read_here(url)) == "2"


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
    with forks.job("open_and_wait", url) as job:
        line = job.line()
    os.close(writer)
    os.waitpid(pid, 0)
    assert line == "open"


# ---- its file


@pytest.mark.parametrize("left", [0, 100, 4096, 8192, 0.3, 0.7, -1])
@pytest.mark.parametrize("readonly", [False, True])
def test_a_truncated_file_is_reported_and_left_as_it_is(url, path, left, readonly):
    make_store(url)
    file = file_of(path)
    size = file.stat().st_size
    # Whole pages, where it takes a look at all of them to see that some are missing; or parts.
    shares = {-1: size - 1, 0.3: int(0.3 * size), 0.7: int(0.7 * size) // 4096 * 4096}
    os.truncate(file, shares.get(left, left))
    before = hashlib.sha256(file.read_bytes()).digest()
    with pytest.raises(DataError, match=r"damaged.*restore"):
        open_store(url, readonly=readonly)
    assert hashlib.sha256(file.read_bytes()).digest() == before


def test_the_file_of_a_store_put_back_is_the_store(url, path):
    make_store(url)
    file = file_of(path)
    content = file.read_bytes()
    file.write_bytes(b"what is this" * 2000)
    with pytest.raises(DataError, match=r"damaged or no store of users \(.*not an LMDB file"):
        open_store(url)
    file.write_bytes(content)
    store = open_store(url)
    assert store.totals().users == 300
    store.close()


def test_a_full_map_is_reported(url, monkeypatch):
    monkeypatch.setattr(lmdb_file, "MAPS", [2**20])
    store = open_store(url)
    refused = send_until_full(store, 0, 3000)
    with pytest.raises(StoreFull, match="address space"):
        send_numbers(store, [refused], 3000)
    assert sorted(check_logs(store)) == list(range(refused))
    assert refused > 10
    store.close()
    monkeypatch.undo()
    store = open_store(url)
    assert sorted(check_logs(store)) == list(range(refused))
    send_numbers(store, [refused], 3000)
    store.close()


def test_a_smaller_map_is_taken_where_the_process_gets_no_large_one(url, monkeypatch):
    monkeypatch.setattr(lmdb_file, "MAPS", [2**60, 2**24])
    store = open_store(url)
    send_numbers(store, [1])
    assert check_logs(store) == [1]
    store.close()


class BrokenEnvironment:
    """Stands for an environment that LMDB has given up."""

    def __init__(self, env) -> None:
        self.env, self.closed = env, False

    def begin(self, **options):
        raise lmdb.PanicError("mdb_txn_begin: MDB_PANIC")

    def close(self):
        self.closed = True
        self.env.close()


def test_an_environment_that_lmdb_gave_up_is_opened_anew(store):
    send_numbers(store, [1])
    for use in (
        lambda: send_numbers(store, [2]),
        lambda: store.append(DIGEST, []),
        lambda: store.users(b"", 9) == USERS[1:3] or pytest.fail("users are missing"),
    ):
        folder = store._folder
        broken = BrokenEnvironment(folder._file.env)
        folder._file = folder._file._replace(env=broken)
        use()
        assert broken.closed
    assert sorted(check_logs(store)) == [1, 2]


def test_what_a_killed_compaction_left_is_deleted(url, path):
    make_store(url)
    store = open_store(url)
    store.compact()
    store.close()
    for name in ("store-1.mdb", "store-1.mdb-lock", "store-3.tmp"):
        shutil.copy(path / "store-2.mdb", path / name)
    (path / "store-of-shoes.mdb").write_text("not ours")
    reader = open_store(url, readonly=True)
    assert reader.totals().users == 300
    assert len(os.listdir(path)) == 8
    reader.close()
    open_store(url).close()
    ours = [".lock", "high-water", "store-2.mdb", "store-2.mdb-lock", "store-of-shoes.mdb"]
    assert sorted(os.listdir(path)) == ours
