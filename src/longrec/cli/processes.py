"""Who trains: this process, those of torchrun, a Ray cluster's, or N of this machine, watched.

With `--processes N` these run the same command, and meet as processes of torchrun do, by the same
variables, at an address that this machine alone can reach. Whichever ends first with an error ends
all, and its line is the command's.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longrec.cli.common import cluster_of, go_on, resumable
from longrec.core import console, threads
from longrec.core.child import start_child, stop_child, why_it_failed
from longrec.core.errors import LongrecError, UsageError

if TYPE_CHECKING:
    from longrec.cluster.ray_cluster import Cluster
    from longrec.recommender import Recommender

_CHILD = "longrec.cli.process_child"
PATIENCE = 30.0
"""Seconds that the others have to end, once one has."""
TICK = 0.1


class ProcessFailed(LongrecError):
    """What one of the processes said, with its exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_status = status


def trained_by(
    number: int,
    engine: str | None,
    address: str | None,
    train: Callable[..., Recommender],
    call: Callable[[], Mapping[str, Any]],
    words: Sequence[str],
    out: Path,
    plugins: Sequence[str],
) -> Recommender | None:
    """What so many processes make of a call of `longrec.train` or `longrec.refit`.

    Parameters
    ----------
    number : processes, of this machine or of the cluster.
    engine, address : of the cluster, if it is one that trains.
    train : the function.
    call : () -> its arguments; says what is trained on.
    words : of the command, without those that tell who trains: it goes on by these.
    out : the run's folder.
    plugins : modules that the model comes from.

    Returns
    -------
    None in a process that has nothing to show, since another one does.
    """
    from longrec.training.meeting import joined, started_with

    many = {"--processes": number if number > 1 else None, "--engine": engine, "--address": address}
    told = [str(word) for pair in many.items() if pair[1] is not None for word in pair]

    def again() -> str:
        return go_on(out, shlex.join([*words, *told]))

    mine = started_with()
    if mine.number > 1 and (engine is not None or number not in (1, mine.number)):
        given = f"--engine is {engine}" if engine is not None else f"--processes is {number}"
        raise UsageError(f"{given}, but torchrun has started {mine.number} processes: leave it out")
    with resumable(again), cluster_of(engine, address, number) as cluster:
        if cluster is not None:
            return _train_on(cluster, number, train, call, plugins)
        if number > 1 and mine.number == 1:
            failed = _run(number, sys.argv[1:], again)
        else:
            with joined():
                if mine.rank:
                    console.be_silent()
                arguments = call()
                if mine.number > 1:
                    console.say(f"processes: {mine.number}")
                found = train(**arguments, progress=True)
                return None if mine.rank else found
    if failed is not None:  # it says itself how it goes on
        raise failed
    return None


def _train_on(
    cluster: Cluster,
    number: int,
    train: Callable[..., Recommender],
    call: Callable[[], Mapping[str, Any]],
    plugins: Sequence[str],
) -> Recommender:
    from longrec.cluster.training import train_on
    from longrec.runs.progress_display import line_of_log

    arguments = call()
    console.say(f"processes: {number}, of a Ray cluster")
    return train_on(
        *(cluster, number, train, arguments),
        lambda row: console.say(line_of_log(row)),
        plugins,
    )


def _run(number: int, words: Sequence[str], go_on: Callable[[], str]) -> LongrecError | None:
    """Run `longrec WORDS` in so many processes until all have ended, or one with the error."""
    from longrec.training.meeting import meeting_place
    from longrec.training.processes import ProcessLost

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
            return None
        rank, status = failed
        if said[rank].is_file():
            return ProcessFailed(said[rank].read_text(encoding="utf-8"), status)
    who = f"process {rank + 1} of {number}"
    if status < 0:
        return LongrecError(f"{who} was {why_it_failed(status, '')}; {go_on()}")
    return LongrecError(f"{who} failed, and what it said stands above; {go_on()}")


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
