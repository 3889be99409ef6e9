"""The machine while serving is measured: one core for this process, and what a sync costs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import psutil
import torch

from longrec.core.machine import usable_cores
from longrec_bench.measurement import Measurement

BLOCK = 32 * 1024
"""Bytes written before each sync that is timed: about a record and an event."""


@contextmanager
def one_core() -> Iterator[int | None]:
    """Keep all threads of this process on one core, and torch on one thread, until the block ends.

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
        _pin_threads({core})
        try:
            yield core
        finally:
            _pin_threads(allowed)
    finally:
        torch.set_num_threads(threads)


def _pin_threads(cores: set[int]) -> None:
    """Set the cores of all threads; those to come get them from the thread that starts them."""
    for thread in psutil.Process().threads():
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(thread.id, cores)


class DiskSync(Measurement):
    """Syncs of a file of its own in a folder, without a store."""

    def __init__(self, folder: Path) -> None:
        super().__init__({})
        self._file: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._block = os.urandom(BLOCK)
        self._sync = getattr(os, "fdatasync", os.fsync)
        self._write()

    def sample(self) -> None:
        with self.timed():
            self._write()

    def _write(self) -> None:
        self._file.seek(0)
        self._file.write(self._block)
        self._file.flush()
        self._sync(self._file.fileno())

    def __enter__(self) -> DiskSync:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()
