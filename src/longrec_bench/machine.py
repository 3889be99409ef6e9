"""The machine of a measurement: one core for this process, the disk, and what is told of it."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import torch

from longrec.core.machine import machine, versions

IN_MEMORY = {"tmpfs", "ramfs"}
"""File systems on which a sync costs nothing and keeps nothing."""
BLOCK = 32 * 1024
"""Bytes written before each sync that is timed: about a record and an event."""


def usable_cores() -> set[int]:
    """The cores that this thread may use; empty where the system does not tell."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@contextmanager
def one_core() -> Iterator[int | None]:
    """Keep all threads of this process on one core, and torch on one thread, for as long as it is.

    -> the core's number, or None where the system cannot do that.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        allowed = usable_cores()
        if not allowed:
            yield None
            return
        core = max(allowed)
        _keep_on({core})
        try:
            yield core
        finally:
            _keep_on(allowed)
    finally:
        torch.set_num_threads(threads)


def _keep_on(cores: set[int]) -> None:
    """Set the cores of all threads; those to come get them from the thread that starts them."""
    try:
        threads = [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        threads = [0]
    for thread in threads:
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(thread, cores)


def file_system(folder: Path) -> str:
    """The type of the file system of a folder: "ext4", …; "unknown" where it is not told."""
    place, best, found = str(folder.resolve()), -1, "unknown"
    with suppress(OSError), open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
        for line in file:
            _, mount, kind, *_ = line.split(" ")
            mount = mount.replace("\\040", " ")
            inside = place == mount or place.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= best:  # of two on one place the later one counts
                best, found = len(mount), kind
    return found


class Disk:
    """Times syncs of a file of its own in a folder, without a store."""

    def __init__(self, folder: Path) -> None:
        self.seconds = array("d")
        self._file: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._block = os.urandom(BLOCK)
        self._sync = getattr(os, "fdatasync", os.fsync)
        self._write()

    def _write(self) -> None:
        self._file.seek(0)
        self._file.write(self._block)
        self._file.flush()
        self._sync(self._file.fileno())

    def burst(self) -> None:
        """Time one."""
        began = perf_counter()
        self._write()
        self.seconds.append(perf_counter() - began)

    def clear(self) -> None:
        """Forget what was noted so far."""
        self.seconds = array("d")

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()


def describe(core: int | None) -> dict[str, Any]:
    """What any figure of this machine must be told with, as plain values."""
    found = machine()
    return {
        "processor": found["processor"],
        "cores": found["cores"],
        "cores_used": 1 if core is not None else found["cores"],
        "pinned": core is not None,
        "torch_threads": found["threads"],
        "load_before": load(),
        "versions": versions() | {name: _version(name) for name in ("lmdb", "redis", "polars")},
    }


def load() -> float | None:
    """Processes that wanted to run in the last minute, on average."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
