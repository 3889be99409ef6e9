"""The work of many requests, gathered and done in a thread of its own, a batch at a time.

A batch is what came while the one before was done: a request alone waits for nobody, and the more
there are the larger batches get. What may wait is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Generic, TypeVar

from longrec.serving.http.errors import Busy
from longrec.serving.http.threads import Workers
from longrec.serving.stream.group_commit import run_batch

W = TypeVar("W")
R = TypeVar("R")

AT_ONCE = 1024
"""Weight of a batch at most, unless one job alone has more."""

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
        if batch:
            self._thread.submit(lambda: self._run(batch))
        else:
            self._busy = False
            self._idle.set()

    def _run(self, batch: list[_Job[W, R]]) -> None:
        began = perf_counter()
        results = run_batch(self._do, [job.work for job in batch])
        taken = perf_counter() - began
        with suppress(RuntimeError):  # the loop has ended before the batch
            self._loop.call_soon_threadsafe(self._end, batch, results, began, taken)

    def _end(
        self,
        batch: list[_Job[W, R]],
        results: Sequence[R | BaseException],
        began: float,
        taken: float,
    ) -> None:
        self._start()
        for job, result in zip(batch, results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        self._on_batch(len(batch), [began - job.since for job in batch], taken)


class _Job(Generic[W, R]):
    """Work, since when it waits, and the future of its result."""

    __slots__ = ("future", "since", "weight", "work")

    def __init__(self, work: W, weight: int, future: asyncio.Future[R]) -> None:
        self.work, self.weight, self.future = work, weight, future
        self.since = perf_counter()
