"""Work beside the event loop, in threads that do not keep the process alive."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from longrec.serving.http.errors import Busy

T = TypeVar("T")


class Abandoned(Exception):
    """Nobody waits for this work any more."""


async def in_thread(work: Callable[[], T]) -> T:
    """The result of some work, done in a thread of its own, which goes on where nobody waits."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # from now on it cannot be cancelled

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="worker", daemon=True).start()
    return await asyncio.wrap_future(future)


class Threads:
    """Does work that is rarely asked for, a few pieces at a time; called in the loop's thread.

    Parameters
    ----------
    at_once : pieces of work done side by side.
    limit : pieces of work that may be under way or wait.
    """

    def __init__(self, at_once: int, limit: int) -> None:
        self._slots, self._limit = asyncio.Semaphore(at_once), limit
        self._tasks = set[asyncio.Task[Any]]()

    async def run(self, work: Callable[[], T]) -> T:
        """The result of some work.

        Raises
        ------
        Busy
            When too much is asked already.
        """
        return await self.run_long(lambda _: work())

    async def run_long(self, work: Callable[[Callable[..., None]], T]) -> T:
        """The result of work that takes long. It gets a function that it calls now and then, and
        that raises once nobody waits for the result."""
        if len(self._tasks) >= self._limit:
            raise Busy
        abandoned = threading.Event()

        def check_wanted(*_: object) -> None:
            if abandoned.is_set():
                raise Abandoned

        async def run() -> T:
            async with self._slots:
                return await in_thread(partial(work, check_wanted))

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._end)
        try:
            return await asyncio.shield(task)
        finally:
            abandoned.set()

    async def close(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, where nobody waits for it
