"""Group commit: what several threads ask for at once is done in one go, by one of them.

Whoever comes to an idle group leads: it takes what is queued, its own first, does it in one call,
hands out the results, and passes the lead to the first of those that came meanwhile. There is no
thread besides those of the callers, and a caller alone waits for nobody.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from longrec.core.errors import LongrecError

W = TypeVar("W")
R = TypeVar("R")

AT_ONCE = 256
"""Pieces of work done in one go at most."""


class GroupCommit(Generic[W, R]):
    """Does the work of threads one group after the other, each in the order in which it came.

    Parameters
    ----------
    do : as of `run_batch`; never called twice at once.
    """

    def __init__(self, do: Callable[[list[W]], Sequence[R | BaseException]]) -> None:
        self._do = do
        self._mutex = threading.Lock()
        self._queue: deque[_Job[W, R]] = deque()
        self._has_leader = False

    def submit(self, work: W) -> R:
        """The result of some work, once its group is done; what is raised is this caller's own."""
        job: _Job[W, R] = _Job(work)
        with self._mutex:
            self._queue.append(job)
            if not self._has_leader:
                self._has_leader = job.leads = True
        if not job.leads:
            try:
                job.woken.acquire()
            except BaseException:  # interrupted: nobody waits for it any more
                self._leave(job)
                raise
        if job.leads:
            self._lead()
        if job.error is not None:
            raise job.error
        return job.result

    def _lead(self) -> None:
        """Do what is queued; the leader's own work is the first."""
        jobs: list[_Job[W, R]] = []
        try:
            with self._mutex:
                while self._queue and len(jobs) < AT_ONCE:
                    jobs.append(self._queue.popleft())
            for job, result in zip(jobs, run_batch(self._do, [j.work for j in jobs]), strict=True):
                if isinstance(result, BaseException):
                    job.error = result
                else:
                    job.result = result
        except BaseException as error:  # interrupted
            for job in jobs:
                job.error = error if job is jobs[0] else copy_of_error(error)
            if not jobs:
                raise
        finally:
            with self._mutex:
                self._pass_on()
            for job in jobs[1:]:
                job.woken.release()

    def _pass_on(self) -> None:
        """Let the first in the queue lead, if there is one; the mutex is held."""
        self._has_leader = bool(self._queue)
        if self._queue:
            self._queue[0].leads = True
            self._queue[0].woken.release()

    def _leave(self, job: _Job[W, R]) -> None:
        with self._mutex:
            if job in self._queue:
                self._queue.remove(job)
                if job.leads:
                    self._pass_on()


class _Job(Generic[W, R]):
    """Some work, and whether its thread leads; it sleeps until `woken` is released."""

    __slots__ = ("error", "leads", "result", "woken", "work")
    result: R

    def __init__(self, work: W) -> None:
        self.work = work
        self.leads = False
        self.error: BaseException | None = None
        self.woken = threading.Lock()
        self.woken.acquire()


def run_batch(
    do: Callable[[list[W]], Sequence[R | BaseException]], batch: list[W]
) -> Sequence[R | BaseException]:
    """What `do` gives for a batch of work, as many results.

    A result that is an exception belongs to its work alone; what `do` raises belongs to all.
    """
    try:
        return do(batch)
    except BaseException as error:
        return [error, *(copy_of_error(error) for _ in batch[1:])]


def copy_of_error(error: BaseException) -> BaseException:
    """An exception for a further thread: raising one in two threads mixes their tracebacks."""
    if not isinstance(error, Exception):
        copied: BaseException = LongrecError(
            "the thread that wrote for this one was interrupted: the event may be in the log or not"
        )
    else:
        try:
            copied = copy.copy(error)
        except Exception:
            copied = LongrecError(f"{type(error).__name__}: {error}")
    copied.__cause__ = error
    return copied
