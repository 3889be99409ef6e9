"""Work beside the event loop, in threads that do not keep the process alive, and how long work
gives way to short requests.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from time import monotonic, perf_counter
from typing import Any, TypeVar

from longrec.serving.http.errors import Busy

T = TypeVar("T")
Pause = Callable[..., None]
"""Called between two pieces of long work; it waits where others are to come first, and raises
`Abandoned` once nobody waits for the result."""

PIECE = 0.001
"""Seconds of long work that need no pause."""
SHARE = 4.0
"""How many times as long as a piece of long work took short requests may hold up the next one."""
MOST = 0.1
"""Seconds that a pause may take."""
ALONE = 1.0
"""Seconds without a short request after which long work counts as alone."""


class Abandoned(Exception):
    """Nobody waits for this work any more."""


class Courtesy:
    """Long work gives way: between two of its pieces it waits until no short request is under way,
    though not longer than `SHARE` times as long as the piece took, so that it goes on in any case.

    Python runs one thread at a time, and a machine has few cores: without this a short request
    takes as long as all the long work that came before it.
    """

    def __init__(self) -> None:
        self._short, self._last = 0, -ALONE
        self._calm, self._calm_here = threading.Event(), asyncio.Event()
        self._calm.set()
        self._calm_here.set()

    @contextmanager
    def short(self) -> Iterator[None]:
        """A short request is under way; used in the event loop's thread."""
        self._short += 1
        self._calm.clear()
        self._calm_here.clear()
        try:
            yield
        finally:
            self._short -= 1
            self._last = monotonic()
            if not self._short:
                self._calm.set()
                self._calm_here.set()

    @property
    def alone(self) -> bool:
        """Whether no short request has come for a while."""
        return not self._short and monotonic() - self._last > ALONE

    def wait(self, took: float) -> None:
        """Give way after a piece of work that took so many seconds; in a thread."""
        if not self._calm.is_set():
            self._calm.wait(min(SHARE * took, MOST))

    async def give_way(self, took: float) -> None:
        """The same in the event loop."""
        if self._short:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._calm_here.wait(), min(SHARE * took, MOST))


async def in_thread(work: Callable[[], T]) -> T:
    """The result of some work, done in a thread of its own, which goes on where nobody waits."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # from now on it cannot be cancelled
    threading.Thread(target=_do, args=(work, future), name="worker", daemon=True).start()
    return await asyncio.wrap_future(future)


class Workers:
    """Threads that do what they are given, in order, and end with the process whatever they do.

    They last: a new one for each piece of work would scatter memory over many heaps.
    """

    def __init__(self, name: str, number: int = 1) -> None:
        self._works: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._number = number
        for _ in range(number):
            threading.Thread(target=self._serve, name=name, daemon=True).start()

    def submit(self, work: Callable[[], None]) -> None:
        """Let one of them do it; it raises nothing."""
        self._works.put(work)

    def close(self) -> None:
        """End them, once they have done what they were given."""
        for _ in range(self._number):
            self._works.put(None)

    def _serve(self) -> None:
        while (work := self._works.get()) is not None:
            work()
            del work  # or it stays in memory until the next one comes


class Threads:
    """Does work a few pieces at a time, in threads of its own; called in the loop's thread.

    Parameters
    ----------
    name : of the threads.
    at_once : pieces of work done side by side.
    limit : pieces of work that may be under way or wait.
    courtesy : to which long work gives way.
    """

    def __init__(self, name: str, at_once: int, limit: int, courtesy: Courtesy) -> None:
        self._limit, self._courtesy, self._under_way = limit, courtesy, 0
        self._took = 0.0
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        self._done.set()
        self._workers = Workers(name, at_once)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of some work.

        Raises
        ------
        Busy
            When too much is asked already.
        """
        return await self._submit(threading.Event(), work)

    async def run_long(self, work: Callable[[Pause], T]) -> T:
        """The result of work that takes long; it calls what it is given between two pieces."""
        abandoned, since = threading.Event(), 0.0

        def pause(*_: object) -> None:
            nonlocal since
            took = perf_counter() - since
            if took < PIECE:
                return
            if abandoned.is_set():
                raise Abandoned
            self._courtesy.wait(took)
            since = perf_counter()

        def begin() -> T:
            nonlocal since
            self._courtesy.wait(self._took)
            since = perf_counter()
            try:
                return work(pause)
            finally:
                self._took = perf_counter() - since

        return await self._submit(abandoned, begin)

    async def _submit(self, abandoned: threading.Event, work: Callable[[], T]) -> T:
        if self._under_way >= self._limit:
            raise Busy
        future: Future[T] = Future()
        self._under_way += 1
        self._done.clear()
        future.add_done_callback(self._tell_ended)

        def do() -> None:
            if future.set_running_or_notify_cancel():
                _do(work, future)

        self._workers.submit(do)
        try:
            return await asyncio.wrap_future(future)
        finally:
            abandoned.set()

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._done.wait()
        self._workers.close()

    def _tell_ended(self, future: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop has ended before the work
            self._loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._done.set()


def _do(work: Callable[[], T], future: Future[T]) -> None:
    """Do some work and tell its future."""
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
