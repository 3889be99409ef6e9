"""Facts of the machine and of versions."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from longrec.core import control_groups, memory
from longrec.core.errors import LongrecError
from longrec.core.machine import (
    file_system,
    load_average,
    machine,
    machine_text,
    versions,
    versions_text,
)
from longrec.core.memory import available_memory


def test_in_words():
    found = {"processor": "P", "cores": 2, "gpu": None}
    assert machine_text(found) == "P, 2 cores"
    assert machine_text(found | {"gpu": "G"}) == "P, 2 cores, G"
    assert machine_text(machine()).startswith(machine()["processor"])
    assert versions("no such package")["torch"] == torch.__version__
    assert versions_text(versions("no such package")).endswith("no such package not installed")


def test_figures():
    assert 0 < available_memory() < 1 << 50
    assert load_average() is None or load_average() >= 0


@pytest.mark.skipif(not Path("/proc/self/mounts").exists(), reason="this system does not tell")
def test_file_systems():
    assert file_system(Path("/proc/self")) == "proc"
    with open("/proc/self/mounts") as mounts:
        kinds = {line.split()[1]: line.split()[2] for line in mounts}
    assert file_system(Path("/")) == kinds["/"]


@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_what_the_narrowest_control_group_leaves(version, tmp_path, monkeypatch):
    """But for files that the system can give up; a group without a limit does not count."""
    top = tmp_path / "groups" / ("memory" if version == 1 else "")
    narrow, own = top / "a", top / "a" / "b"
    own.mkdir(parents=True)
    limit, used = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    files = "total_inactive_file" if version == 1 else "inactive_file"
    for group, most in ((own, "max"), (narrow, "5000")):
        (group / f"memory.{limit}").write_text(most)
        (group / f"memory.{used}").write_text("3000\n")
        (group / "memory.stat").write_text(f"anon 2\n{files} 1000\n")
    line = "4:memory:/a/b" if version == 1 else "0::/a/b"
    (tmp_path / "cgroup").write_text(f"9:name=systemd:/\n{line}\n")
    monkeypatch.setattr(control_groups, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(control_groups, "_TOP", tmp_path / "groups")
    assert available_memory() == 3000
    memory.check_room(3000, "run")
    with pytest.raises(LongrecError, match=r"not enough memory for run: it takes .* are left"):
        memory.check_room(3001, "run")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_want_of_memory_is_told_in_a_line_with_what_to_do(error):
    words = memory.out_of_memory(error)
    assert words.startswith("not enough memory (")
    assert "ulimit -v" in words
    assert "\n" not in words


def test_other_errors_are_none_of_memory():
    for error in (ValueError("memory"), RuntimeError("shapes differ"), OSError(errno.EIO, "x")):
        assert memory.out_of_memory(error) is None
