"""The work of many requests, gathered and done in a thread of its own, a batch at a time.

A batch is what came while the one before was done: a request alone waits for nobody, and the more
there are the larger batches get. What may wait is bounded.

The event loop waits for a small batch: to turn to others and be woken takes as long as the work,
and others are those who come meanwhile, and make the next batch. Beside a busy event loop the same
work takes twenty times as long: Python runs one thread at a time, and the thread gives it up, and
waits to get it back, dozens of times in a batch. The loop waits for `PATIENCE` at most, whatever
blocks the thread; where that was in vain, for a disk perhaps, some batches are not waited for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from time import perf_counter
from typing import Generic, TypeVar

from longrec.serving.http.errors import Busy
from longrec.serving.http.threads import Workers
from longrec.serving.stream.group_commit import run_batch

W = TypeVar("W")
R = TypeVar("R")

AT_ONCE = 1024
"""Weight of a batch at most, unless one job alone has more."""
SHORT, PATIENCE = 0.001, 0.004
"""Seconds after which a batch's thread goes on before its answers are written, and that the event
loop waits for a batch at most."""
SMALL, MOST_PASSED = 16, 4
"""Weight of a batch that is waited for, at most, and batches that are not where that was in vain:
one, then two, then so many, until it is not."""

OnBatch = Callable[[int, list[float], float], None]
"""Called with how many jobs a batch had, the seconds that each waited, and the seconds it took."""


class Batcher(Generic[W, R]):
    """Does work in batches, in its order; made and called in an event loop's thread.

    Parameters
    ----------
    name : of its thread.
    do : as of `run_batch`; called in the batcher's thread.
    limit : weight of the work that may wait.
    on_batch : see `OnBatch`.
    """

    def __init__(
        self,
        name: str,
        do: Callable[[list[W]], Sequence[R | BaseException]],
        limit: int,
        on_batch: OnBatch,
    ) -> None:
        self._do, self._limit, self._on_batch = do, limit, on_batch
        self._loop = asyncio.get_running_loop()
        self._thread = Workers(name)
        self._queue: deque[_Job[W, R]] = deque()
        self._busy = self._closed = False
        self._to_pass, self._in_vain = 0, 1
        self._idle = asyncio.Event()
        self._idle.set()
        self.waiting = 0

    async def submit(self, work: W, weight: int = 1) -> R:
        """The result of some work.

        Raises
        ------
        Busy
            When there is no room to wait; nothing was done.
        """
        if self._closed or (self._queue and self.waiting + weight > self._limit):
            raise Busy
        job: _Job[W, R] = _Job(work, weight, self._loop.create_future())
        self._queue.append(job)
        self.waiting += weight
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._loop.call_soon(self._start)
        return await job.future

    async def close(self) -> None:
        """Do what waits, take nothing more, and end the thread."""
        self._closed = True
        await self._idle.wait()
        self._thread.close()

    def _start(self) -> None:
        """Hand the next batch to the thread."""
        batch: list[_Job[W, R]] = []
        weight = 0
        while self._queue and (not batch or weight + self._queue[0].weight <= AT_ONCE):
            job = self._queue.popleft()
            self.waiting -= job.weight
            if not job.future.done():  # cancelled: nobody waits for it any more
                batch.append(job)
                weight += job.weight
        if not batch:
            self._busy = False
            self._idle.set()
            return
        waits = weight <= SMALL and not self._to_pass
        self._to_pass = max(0, self._to_pass - 1)
        done = _Done(batch, waited_for=waits)
        self._thread.submit(lambda: self._run(done))
        if waits and done.within(PATIENCE):
            self._in_vain = 1
            self._end(done)
        elif waits:
            self._to_pass = self._in_vain
            self._in_vain = min(2 * self._in_vain, MOST_PASSED)

    def _run(self, done: _Done[W, R]) -> None:
        began = perf_counter()
        results = run_batch(self._do, [job.work for job in done.batch])
        if not done.tell(results, began, perf_counter() - began):
            with suppress(RuntimeError):  # the loop has ended before the batch
                self._loop.call_soon_threadsafe(self._end, done)

    def _end(self, done: _Done[W, R]) -> None:
        if done.took >= SHORT:
            self._start()  # the thread goes on while answers are written
        for job, result in zip(done.batch, done.results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        waited = [done.began - job.since for job in done.batch]
        self._on_batch(len(done.batch), waited, done.took)
        if done.took < SHORT:
            self._loop.call_soon(self._start)


class _Done(Generic[W, R]):
    """A batch, and what became of it; the event loop may wait for it for a while."""

    __slots__ = ("_claimed", "_told", "batch", "began", "results", "took")

    def __init__(self, batch: list[_Job[W, R]], waited_for: bool) -> None:
        self.batch = batch
        self._told, self._claimed = Lock(), Lock()
        self._told.acquire()
        if not waited_for:
            self._claimed.acquire()
        self.results: Sequence[R | BaseException] = ()
        self.began = self.took = 0.0

    def tell(self, results: Sequence[R | BaseException], began: float, took: float) -> bool:
        """Called in the thread; -> whether who waits for it goes on with it, if anybody does."""
        self.results, self.began, self.took = results, began, took
        waited_for = self._claimed.acquire(False)
        self._told.release()
        return waited_for

    def within(self, seconds: float) -> bool:
        """Wait for it so long; False: the thread tells the event loop once it is done."""
        return self._told.acquire(timeout=seconds) or not self._claimed.acquire(False)


class _Job(Generic[W, R]):
    """Work, since when it waits, and the future of its result."""

    __slots__ = ("future", "since", "weight", "work")

    def __init__(self, work: W, weight: int, future: asyncio.Future[R]) -> None:
        self.work, self.weight, self.future = work, weight, future
        self.since = perf_counter()
