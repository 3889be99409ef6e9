"""A full store says so, forgets users nevertheless, and goes on once it has room."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from own_mounts import run_with_mounts
from serving.maintenance.small_stores import MODEL, record

from longrec.serving.maintenance.verify import verify
from longrec.serving.stores.log_reader import NO_MODEL
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Append, Event, Store, StoreFull

MIB = 1 << 20


@contextmanager
def files_of(size: int) -> Iterator[None]:
    """Files of this process may not become larger, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(store: Store, users: int, at_once: int, until: int = 10**9) -> list[bytes]:
    """Log events of some users, in groups, until the store is full; -> who has some."""
    draw, logged = random.Random(users + at_once), dict[bytes, int]()
    for number in range(until):
        names = {b"u%d" % draw.randrange(users) for _ in range(at_once)}
        asked = [(name, ()) for name in sorted(names)]
        appends = []
        for (name, _), stored in zip(asked, store.read(MODEL, asked), strict=True):
            event = Event(number, b"item%d" % (number % 50), b"e%d" % number)
            version = logged.get(name, 0)
            made = record(name, stored.last + 1, version + 1, extra=b"x" * 9_000)
            append = Append(name, stored.log_id, stored.last, version, [event], made, [number % 50])
            appends.append(append)
        try:
            store.append(MODEL, appends)
        except StoreFull:
            break
        for append in appends:
            logged[append.user] = append.version + 1
    return sorted(logged)


@pytest.mark.parametrize("at_once", [1, 40])
@pytest.mark.parametrize("users", [30, 10**6])
def test_a_full_store_forgets_every_user_and_goes_on(users, at_once, tmp_path: Path) -> None:
    with closing(open_store(str(tmp_path / "s"), "process")) as store:
        store.check_ready()
        with files_of(2 * MIB):
            known = fill(store, users, at_once)
            with pytest.raises(StoreFull, match="Make room"):
                store.check_ready()
            gone = known[: len(known) // 2]
            assert all(store.forget(user) for user in gone)
            assert store.users(b"", 10**6) == known[len(gone) :]
        store.check_ready()
        assert verify(store).problems == ()
        fill(store, users, at_once, until=20)
        assert verify(store).problems == ()


def test_it_is_ready_on_a_full_disk_once_what_was_forgotten_makes_room(tmp_path: Path) -> None:
    """It writes where that was; and is full again when that is used up.

    Whether it is ready before an event is written depends on how much was forgotten; afterwards
    the event has shown it.
    """
    with closing(open_store(str(tmp_path / "s"), "process")) as store, files_of(4 * MIB):
        known = fill(store, 10**6, 5)
        with pytest.raises(StoreFull):
            store.check_ready()
        assert store.forget(known[0])
        with pytest.raises(StoreFull):
            store.check_ready()
        assert all(store.forget(user) for user in known[1:])
        store.check_ready()
        again = fill(store, 10**6, 5)
        assert again
        with pytest.raises(StoreFull):
            store.check_ready()
        for user in again[: len(again) // 8]:
            store.forget(user)
        with pytest.raises(StoreFull):
            store.check_ready()
        assert fill(store, 10**6, 2, until=3)
        store.check_ready()
        assert verify(store).problems == ()


def test_a_copy_that_just_fits_forgets_too(tmp_path: Path) -> None:
    """Copying leaves no free page but those that are left on purpose."""
    with closing(open_store(str(tmp_path / "s"), "process")) as store:
        known = fill(store, 10**6, 30, until=20)
        long = [Event(n, b"item%d" % (n % 50), b"long%d" % n) for n in range(20_000)]
        store.append(NO_MODEL, [Append(b"long", 0, 0, 0, long, None, ())])
        _, size = store.compact()
        with files_of(size):
            with pytest.raises(StoreFull):
                store.check_ready()
            assert store.forget(b"long")
            assert all(store.forget(user) for user in known)
        assert verify(store).users == 0


def test_a_look_for_room_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    with closing(open_store(str(tmp_path / "s"), "process")) as store:
        fill(store, 10, 5, until=5)
        [file] = (tmp_path / "s").glob("*.mdb")
        before = file.read_bytes(), file.stat().st_mtime_ns
        for _ in range(3):
            store.check_ready()
        assert (file.read_bytes(), file.stat().st_mtime_ns) == before
        with closing(open_store(str(tmp_path / "s"), readonly=True)) as reader:
            reader.check_ready()


IN_TMPFS = """
mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", sys.argv[1])
from serving.stores.test_room import on_a_small_disk
on_a_small_disk(Path(sys.argv[1]))
"""


def on_a_small_disk(disk: Path) -> None:
    """In a process of its own: others fill the disk, and make room again."""
    with closing(open_store(str(disk / "s"), "power")) as store:
        known = fill(store, 10**6, 1, until=50)
        other = (disk / "other").open("wb", buffering=0)
        with suppress(OSError):
            while other.write(bytes(4096)):
                pass
        with pytest.raises(StoreFull, match="No space left"):
            store.check_ready()
        assert all(store.forget(user) for user in known[:25])
        more = fill(store, 10**6, 1)
        (disk / "other").unlink()
        other.close()
        store.check_ready()
        assert set(known[25:]) | set(more) == set(store.users(b"", 10**6))
        assert verify(store).problems == ()
    print("all is well")


def test_a_full_disk(tmp_path: Path) -> None:
    told = run_with_mounts(IN_TMPFS, tmp_path)
    assert "all is well" in told, told
