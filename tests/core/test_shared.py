"""Tensors that processes hold once: found by a key, sealed, private where they are written to."""

from __future__ import annotations

import gc
import mmap
import os
import socket
import threading
from pathlib import Path

import pytest
import torch

from longrec.core import shared as sharing
from longrec.core.shared import file_of, is_held, is_shared, shared

pytestmark = pytest.mark.skipif(not sharing.AVAILABLE, reason="no files in memory alone here")


@pytest.fixture
def key(request):
    """One that no other process of the tests has."""
    return f"test-{os.getpid()}-{abs(hash(request.node.name)) % 10**9}"


def never():
    raise AssertionError("it is held already")


def test_what_is_held_is_not_made_again(key):
    made = {
        "table": torch.arange(3000, dtype=torch.float32).view(1000, 3),
        "half": torch.randn(7).bfloat16(),
        "flags": torch.tensor([True, False, True]),
        "number": torch.tensor(5),
        "none": torch.zeros(0, 4),
        "turned": torch.arange(6).view(2, 3).t(),
    }
    one, other = shared(key, lambda: made), shared(key, never)
    assert one.keys() == other.keys() == made.keys()
    for name, tensor in made.items():
        for found in (one[name], other[name]):
            assert found.dtype == tensor.dtype, name
            assert torch.equal(found, tensor), name
            assert found.data_ptr() % sharing.ALIGNED == 0
    assert is_shared(one["table"][5:, 1:])
    assert not is_shared(made["table"])
    assert is_held(key)


def test_it_is_gone_with_the_last_who_holds_it(key):
    one, other = (shared(key, lambda: {"x": torch.ones(5)}) for _ in range(2))
    part = one["x"][2:]
    del one, other
    gc.collect()
    assert is_held(key)
    assert part.tolist() == [1, 1, 1]
    del part
    gc.collect()
    assert not is_held(key)
    assert shared(key, lambda: {"x": torch.zeros(5)})["x"].tolist() == [0] * 5


def test_what_one_writes_no_other_sees(key):
    one, other = (shared(key, lambda: {"x": torch.zeros(5)})["x"] for _ in range(2))
    one[2] = 7
    other += 1
    assert one.tolist() == [0, 0, 7, 0, 0]
    assert other.tolist() == [1] * 5
    assert shared(key, never)["x"].tolist() == [0] * 5


def test_nobody_can_change_it_or_cut_it_short(key):
    held = shared(key, lambda: {"x": torch.ones(5000)})["x"]
    path, first = file_of(held)
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        assert file.read()[first:][: held.nbytes] == held.numpy().tobytes()
    writer = os.open(path, os.O_RDWR)
    for change in (
        lambda: os.ftruncate(writer, 0),
        lambda: os.ftruncate(writer, 2 * size),
        lambda: os.pwrite(writer, b"x", first),
    ):
        with pytest.raises(PermissionError):
            change()
    os.close(writer)
    assert held.sum() == 5000


def test_what_is_not_sealed_or_of_another_user_is_no_offer(key, monkeypatch):
    begun = os.memfd_create(sharing._name(key))
    assert not is_held(key)
    held = shared(key, lambda: {"x": torch.ones(5)})
    assert is_held(key)
    assert held
    os.close(begun)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert not is_held(key)


def refuse(*_: object, **__: object) -> None:
    raise OSError(12, "Cannot allocate memory")


@pytest.mark.parametrize(
    ("where", "name", "instead"),
    [
        (os, "memfd_create", refuse),
        (os, "posix_fallocate", refuse),
        (os, "dup", refuse),
        (mmap, "mmap", refuse),
        (sharing, "available_memory", lambda: 100),  # taken all the same, the process is killed
        (sharing, "PROCESSES", Path("/none")),
        (socket, "socket", refuse),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_room_or_rights_each_holds_its_own(key, monkeypatch, where, name, instead):
    """Whether it would be the first one, or another one holds it."""
    for begun in (False, True):
        held = shared(key, lambda: {"x": torch.ones(5)}) if begun else {}
        with monkeypatch.context() as patched:
            patched.setattr(where, name, instead)
            assert shared(key, lambda: {"x": torch.ones(5)})["x"].tolist() == [1] * 5
        held.clear()


@pytest.mark.parametrize("name", ["memfd_create", "posix_fallocate"])
def test_nothing_is_offered_of_which_there_is_no_room(key, monkeypatch, name):
    monkeypatch.setattr(os, name, refuse)
    found = shared(key, lambda: {"x": torch.ones(5)})["x"]
    assert not is_shared(found)
    assert not is_held(key)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_file_of_that_name_of_another_layout_is_passed_over(key):
    strange = os.memfd_create(sharing._name(key), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(strange, (5).to_bytes(8, "little") + b"[1, 2")
    sharing._seal(strange)
    before = open_files()
    one = shared(key, lambda: {"x": torch.ones(5)})["x"]
    assert shared(key, never)["x"].tolist() == one.tolist() == [1] * 5
    path, first = file_of(one)
    with open(path, "rb") as file:
        assert file.read()[first:][: one.nbytes] == one.numpy().tobytes(), "its own file"
    del one
    assert open_files() == before
    os.close(strange)


def test_what_another_container_or_version_holds_is_no_offer(key, monkeypatch):
    held = shared(key, lambda: {"x": torch.ones(5)})
    link = os.readlink
    with monkeypatch.context() as patched:
        patched.setattr(os, "readlink", lambda path: link(path) + str(path) * ("ns/" in str(path)))
        assert not is_held(key)
    with monkeypatch.context() as patched:
        patched.setattr(sharing, "version", lambda: "another")
        assert not is_held(key)
    assert is_held(key)
    assert held


def test_of_a_number_that_is_of_a_pipe_by_now_nothing_is_waited_for_or_kept(key, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    before = open_files()
    assert not list(sharing._sealed("self", [str(pipe)], os.geteuid()))
    assert open_files() == before
    os.close(pipe)


def test_of_many_open_files_no_names_are_read_where_nothing_is_mapped(key, monkeypatch):
    monkeypatch.setattr(sharing, "MANY", 0)
    link, read = os.readlink, []
    monkeypatch.setattr(os, "readlink", lambda path: read.append(str(path)) or link(path))
    assert not is_held(key)
    assert not any("/fd/" in path for path in read)
    held = shared(key, lambda: {"x": torch.ones(5)})
    assert is_held(key)
    assert held


def test_reloads_leave_no_file_open_and_nothing_mapped(key):
    held = shared(key, lambda: {"x": torch.ones(5)})
    before = open_files()
    for _ in range(20):
        shared(key, never)
    assert open_files() == before
    assert Path("/proc/self/maps").read_text().count(key) == 1
    assert held


def test_on_systems_without_such_files_each_holds_its_own(key, monkeypatch):
    monkeypatch.setattr(sharing, "AVAILABLE", False)
    found = shared(key, lambda: {"x": torch.ones(5)})["x"]
    assert found.tolist() == [1] * 5
    assert not is_shared(found)
    assert not is_held(key)


def test_of_several_who_begin_at_once_one_makes_it(key):
    began, go, makes, found = threading.Event(), threading.Event(), [], []

    def make() -> dict[str, torch.Tensor]:
        makes.append(1)
        began.set()
        assert go.wait(60)
        return {"x": torch.ones(5)}

    threads = [threading.Thread(target=lambda: found.append(shared(key, make))) for _ in range(3)]
    threads[0].start()
    assert began.wait(60)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert len(makes) == 1
    assert len(found) == 3
    assert all(is_shared(one["x"]) for one in found)


def test_what_cannot_be_made_is_told_and_waits_for_nobody(key):
    with pytest.raises(AssertionError, match="held already"):
        shared(key, never)
    assert shared(key, lambda: {"x": torch.ones(5)})["x"].sum() == 5
