"""`longrec train --processes N`: the same command in N processes of this machine, watched.

They meet as processes of torchrun do, by the same variables, at an address that this machine alone
can reach. Whichever ends first with an error ends all, and its line is the command's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longrec.core import threads
from longrec.core.child import start_child, stop_child, why_it_failed
from longrec.core.errors import LongrecError, UsageError

if TYPE_CHECKING:
    from longrec.training.processes import Processes

_CHILD = "longrec.cli.process_child"
PATIENCE = 30.0
"""Seconds that the others have to end, once one has."""
TICK = 0.1


class ProcessFailed(LongrecError):
    """What one of the processes said, with its exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_status = status


def processes_of(asked: int, go_on: Callable[[], str]) -> Processes | None:
    """The processes that this one trains with; None: it has started as many as asked, which did it.

    Parameters
    ----------
    asked : processes of the call.
    go_on : () -> how the training goes on where it was cut off.
    """
    from longrec.cli.common import resumable
    from longrec.training.processes import started_with

    mine = started_with()
    if mine.number > 1 and asked not in (1, mine.number):
        raise UsageError(
            f"--processes is {asked}, but torchrun has started {mine.number} processes: leave it "
            "out"
        )
    if asked == 1 or mine.number > 1:
        return mine
    with resumable(go_on):
        _run(asked, sys.argv[1:], go_on)
    return None


def _run(number: int, words: Sequence[str], go_on: Callable[[], str]) -> None:
    """Run `longrec WORDS` in so many processes until all have ended, or one with an error."""
    from longrec.training.processes import ProcessLost, meeting_place

    store, shared = meeting_place(number)  # the store serves the others until this function ends
    shared[threads.NUMBER] = str(_threads_of_each(number))
    children: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="longrec-") as folder:
        said = [Path(folder, str(rank)) for rank in range(number)]
        try:
            for rank, path in enumerate(said):
                own = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                arguments = [str(path), *words]
                children.append(
                    start_child(_CHILD, arguments, stdout=None, stderr=None, variables=own)
                )
            failed = _wait(children, ProcessLost.exit_status)
        finally:
            for child in children:  # all are asked before one is waited for
                if child.poll() is None:
                    child.terminate()
            for child in children:
                stop_child(child, PATIENCE)
            del store
        if failed is None:
            return
        rank, status = failed
        if said[rank].is_file():
            raise ProcessFailed(said[rank].read_text(encoding="utf-8"), status)
    who = f"process {rank + 1} of {number}"
    if status < 0:
        raise LongrecError(f"{who} was {why_it_failed(status, '')}; {go_on()}")
    raise LongrecError(f"{who} failed, and what it said stands above; {go_on()}")


def _wait(children: Sequence[subprocess.Popen[bytes]], lost: int) -> tuple[int, int] | None:
    """Wait until all have ended well, or one has not: which and its status.

    One that ended because it lost another (exit status `lost`) is not it, unless no other is found.
    """
    deadline = None
    while True:
        statuses = [child.poll() for child in children]
        ended = [(rank, status) for rank, status in enumerate(statuses) if status]
        if causes := [(rank, status) for rank, status in ended if status != lost]:
            return min(causes, key=lambda cause: cause[1])  # one that was killed before others
        if None not in statuses:
            return ended[0] if ended else None
        if ended:
            deadline = deadline or time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                return ended[0]
        time.sleep(TICK)


def _threads_of_each(number: int) -> int:
    """Threads of each process: those that a caller has set, else its share of all."""
    used = threads.used()
    return used.number if used.why == threads.NUMBER else max(1, used.number // number)
