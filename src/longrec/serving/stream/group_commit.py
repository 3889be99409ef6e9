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
"""Works done in one go at most."""


class Group(Generic[W, R]):
    """Does works one group after the other, each in the order in which they came.

    Parameters
    ----------
    do : callable
        Takes works, gives as many results; a result that is an exception is raised for its work
        alone, and what `do` raises for all of them. Never called twice at once.
    at_once : int
        Most works per call.
    """

    def __init__(
        self, do: Callable[[list[W]], Sequence[R | BaseException]], at_once: int = AT_ONCE
    ) -> None:
        self._do, self._at_once = do, at_once
        self._mutex = threading.Lock()
        self._queue: deque[_Job[W, R]] = deque()
        self._led = False

    def submit(self, work: W) -> R:
        """The result of a work, once its group is done; what is raised is this caller's own."""
        job: _Job[W, R] = _Job(work)
        with self._mutex:
            self._queue.append(job)
            if not self._led:
                self._led = job.leads = True
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
                while self._queue and len(jobs) < self._at_once:
                    jobs.append(self._queue.popleft())
            results = self._do([job.work for job in jobs])
            for job, result in zip(jobs, results, strict=True):
                if isinstance(result, BaseException):
                    job.error = result
                else:
                    job.result = result
        except BaseException as error:
            for job in jobs:
                job.error = error if job is jobs[0] else own(error)
            if not jobs:
                raise
        finally:
            with self._mutex:
                self._pass_on()
            for job in jobs[1:]:
                job.woken.release()

    def _pass_on(self) -> None:
        """Let the first in the queue lead, if there is one; the mutex is held."""
        self._led = bool(self._queue)
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
    """A work, and whether its thread leads; it sleeps until `woken` is released."""

    __slots__ = ("error", "leads", "result", "woken", "work")
    result: R

    def __init__(self, work: W) -> None:
        self.work = work
        self.leads = False
        self.error: BaseException | None = None
        self.woken = threading.Lock()
        self.woken.acquire()


def own(error: BaseException) -> BaseException:
    """An exception of another thread's own: raising one in two threads mixes their tracebacks."""
    if not isinstance(error, Exception):
        own: BaseException = LongrecError(
            "the thread that wrote for this one was interrupted: the event may be in the log or not"
        )
    else:
        try:
            own = copy.copy(error)
        except Exception:
            own = LongrecError(f"{type(error).__name__}: {error}")
    own.__cause__ = error
    return own
