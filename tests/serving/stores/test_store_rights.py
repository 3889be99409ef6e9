"""Stores of one user handled by another: rights stay, and what may only be read is only read."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from own_mounts import run_with_mounts
from serving.maintenance.small_stores import EVENTS, fill, logs_of, serve

from longrec.serving.maintenance.about import about_store
from longrec.serving.maintenance.backup import backup
from longrec.serving.maintenance.restore import restore
from longrec.serving.maintenance.verify import verify
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import StoreUnavailable

OWNER, GROUP, OTHER = 54_321, 54_322, 54_323
LOGS = {b"a": EVENTS, b"b": EVENTS[:3]}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


def as_user(user: int, folder: Path, work: Callable[[], object], *groups: int) -> str:
    """Do something as another user, in a folder; -> what it raised, as text, or ""."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        with suppress(BaseException):
            os.close(ours)
            os.chdir(folder)
            os.setgroups(groups)
            os.setgid(GROUP)
            os.setuid(user)
            try:
                work()
            except BaseException as error:
                os.write(theirs, repr(error).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user reaches, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def make(path: str | Path) -> None:
    with closing(open_store(str(path), "process")) as store:
        serve(store)
        fill(store, LOGS)


def rights(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Owner, group and mode of all files in a folder."""
    found = {path.name: path.stat() for path in folder.iterdir() if path.is_file()}
    return {n: (s.st_uid, s.st_gid, stat.S_IMODE(s.st_mode)) for n, s in found.items()}


@as_root
@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_who_compacts_a_store_leaves_it_to_its_owner(mode: int, place: Path) -> None:
    os.chown(place, OWNER, GROUP)
    assert as_user(OWNER, place, lambda: make("s")) == ""
    for path in (place / "s").iterdir():
        path.chmod(mode)
    with closing(open_store(str(place / "s"), "process")) as store:  # as root
        store.compact()
    found = rights(place / "s")
    assert {"store-2.mdb", "store-2.mdb-lock", ".lock"} <= found.keys()
    assert set(found.values()) == {(OWNER, GROUP, mode)}
    assert as_user(OWNER, place, lambda: make("s")) == ""
    if mode == 0o660:  # another one of the group, who cannot give files away

        def compact() -> None:
            with closing(open_store("s", "process")) as store:
                store.compact()

        (place / "s").chmod(0o2770)
        assert as_user(OTHER, place, compact) == ""
        assert rights(place / "s")["store-3.mdb"] == (OTHER, GROUP, 0o660)
        assert as_user(OWNER, place, lambda: make("s")) == ""


@as_root
@pytest.mark.parametrize(("folder_mode", "mode"), [(0o700, 0o600), (0o755, 0o600), (0o770, 0o660)])
def test_who_restores_into_a_folder_leaves_it_to_the_folders_owner(
    folder_mode: int, mode: int, place: Path
) -> None:
    make(place / "s")
    with closing(open_store(str(place / "s"), readonly=True)) as store:
        backup(store, place / "backup")
    (place / "new").mkdir()
    os.chown(place / "new", OWNER, GROUP)
    (place / "new").chmod(folder_mode)
    with closing(open_store(str(place / "new"), "process")) as store:
        restore(place / "backup", store)
    assert set(rights(place / "new").values()) == {(OWNER, GROUP, mode)}
    assert as_user(OWNER, place, lambda: make("new")) == ""


def look(source: str, out: Path) -> None:
    """All that a diagnostic does, from a store that may only be read."""
    with closing(open_store(source, readonly=True)) as store:
        about = about_store(store)
        assert (about["users"], about["events"]) == (2, 23)
        assert verify(store).problems == ()
        assert backup(store, out).events == 23
    with closing(open_store(str(out) + "-store", "process")) as store:
        restore(out, store)
        assert set(logs_of(store)) == set(LOGS)


@as_root
@pytest.mark.parametrize("left", [(), (".lock",), (".lock", "store-1.mdb-lock")])
def test_who_may_only_read_looks_and_changes_nothing(left: tuple[str, ...], place: Path) -> None:
    make(place / "s")
    for name in left:  # a copy of the data alone
        (place / "s" / name).unlink(missing_ok=True)
    for path in (place / "s").iterdir():
        path.chmod(0o644)
    (place / "out").mkdir(mode=0o777)
    (place / "out").chmod(0o777)
    before = rights(place / "s")
    assert as_user(OTHER, place, lambda: look("s", Path("out/backup"))) == ""
    assert rights(place / "s") == before


@as_root
def test_who_may_only_read_is_told_of_a_writer(place: Path) -> None:
    """A writer that does not know of a reader may overwrite what is being read."""

    def write() -> None:
        open_store("s", "process").close()

    def read() -> None:
        open_store("s", readonly=True).close()

    os.chown(place, OWNER, GROUP)
    assert as_user(OWNER, place, lambda: make("s")) == ""
    for path in (place / "s").iterdir():
        path.chmod(0o644)
    with closing(open_store(str(place / "s"), "process")):
        told = as_user(OTHER, place, read)
        assert "StoreUnavailable" in told
        assert "on a snapshot of the disk" in told
    assert as_user(OTHER, place, read) == ""

    def write_beside_a_reader() -> None:
        with closing(open_store("s", readonly=True)):
            child = os.fork()
            if not child:
                os._exit(0 if "reads it where it may not write" in _raised(write) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    os.chown(place / "s" / ".lock", OTHER, GROUP)  # who may lock, and not write the rest
    assert as_user(OTHER, place, write_beside_a_reader) == ""


def _raised(work: Callable[[], object]) -> str:
    try:
        work()
    except BaseException as error:
        return repr(error)
    return ""


READ_ONLY = """
place = sys.argv[1]
mount("--bind", f"{place}/s", f"{place}/s")
mount("-o", "remount,bind,ro", f"{place}/s")
from serving.stores.test_store_rights import look
look(f"{place}/s", Path(place) / "backup")
print("all is well")
"""


def test_a_read_only_mount(place: Path) -> None:
    make(place / "s")
    assert "all is well" in run_with_mounts(READ_ONLY, place)
    with closing(open_store(str(place / "s"), "process")):  # its server, on the other side
        told = run_with_mounts(READ_ONLY, place)
    assert StoreUnavailable.__name__ in told
    assert "is being written to" in told
