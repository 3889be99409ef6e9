"""How many threads compute, and that those that wait sleep.

By themselves libraries take a thread for each core of the machine, and one that waits for others
spins. That is the fastest where nobody else computes. Where somebody does, or a container is given
less than its machine has, each thread spins for those that do not get a core: with two threads a
training took ten times as long and more. So as many threads compute as this process may use cores,
and who waits lets others on.

Libraries read this as they are loaded: nothing here imports one.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NamedTuple

from longrec.core.control_groups import groups_of

ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}
"""What lets threads of OpenMP (PyTorch's, Faiss') and of OpenBLAS (NumPy's) sleep while they wait:
at once, and after 16 ticks of the processor."""
NUMBER = "OMP_NUM_THREADS"
_NUMBERS = (NUMBER, "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Threads(NamedTuple):
    """How many threads compute, and why so many."""

    number: int
    why: str

    def __str__(self) -> str:
        return f"threads: {self.number} ({self.why})"


_used: Threads | None = None


def sleep_while_waiting() -> None:
    """Let threads sleep while they wait, unless the environment says something else about it.

    It holds for libraries that are not loaded yet, and for processes that this one starts.
    """
    for name, value in ASLEEP.items():
        os.environ.setdefault(name, value)


def usable_cores() -> set[int]:
    """The cores that this thread may use; empty where the system cannot tell."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def quota() -> float | None:
    """Cores' worth of time that the control groups leave this process; None: they set no limit."""
    found = list[float]()
    for version, group in groups_of("cpu"):
        with suppress(OSError, ValueError):  # no such folder or file; "max", which is no limit
            if version == 2:
                given, period = map(int, (group / "cpu.max").read_text().split())
            else:
                given = int((group / "cpu.cfs_quota_us").read_text())
                period = int((group / "cpu.cfs_period_us").read_text())
            if given > 0:  # -1 is no limit
                found.append(given / period)
    return min(found, default=None)


def of_machine() -> Threads:
    """As many as this process may use cores."""
    cores = len(usable_cores())
    number, why = cores, f"it may use {cores} core{'s' * (cores > 1)}"
    if not cores:
        number, why = os.cpu_count() or 1, "as many as the machine has cores"
    limit = quota()
    if limit is not None and limit < number:
        return Threads(max(1, int(limit)), f"its control group gets {limit:.3g} of {number} cores")
    return Threads(number, why)


def choose(asked: int | None, small: bool) -> Threads:
    """How many are to compute.

    Parameters
    ----------
    asked : what the caller wants, if anything.
    small : whether what is computed at once is so little that several threads do not pay.
    """
    if asked is not None:
        return Threads(asked, "--threads")
    told = os.environ.get(NUMBER, "")
    if told.isdecimal() and int(told):
        return Threads(int(told), NUMBER)
    if small:
        return Threads(1, "what it computes at once is small; more: --threads N")
    return of_machine()


def use(threads: Threads) -> None:
    """Let so many compute, in libraries that are loaded from now on; PyTorch may be there."""
    global _used
    _used = threads
    for name in _NUMBERS:
        os.environ[name] = str(threads.number)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads.number)


def used() -> Threads:
    """What `use` was told last, or what would be chosen."""
    return _used or choose(None, small=False)
