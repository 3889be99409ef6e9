"""Work that is rarely asked, in a few threads of its own: it must not hold up the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

from longrec.serving.http.batcher import Busy

T = TypeVar("T")


class GivenUp(Exception):
    """Nobody waits for this work any more."""


class Lane:
    """Does works side by side; called in an event loop's thread.

    Parameters
    ----------
    name : of its threads.
    threads : how many.
    most : works that may be under way or wait.
    """

    def __init__(self, name: str, threads: int, most: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most, self._asked = most, 0

    async def do(self, work: Callable[[], T]) -> T:
        """The result of a work.

        Raises
        ------
        Busy
            When too much is asked already.
        """
        return await self.do_long(lambda _: work())

    async def do_long(self, work: Callable[[Callable[..., None]], T]) -> T:
        """The result of a work that takes long: it gets a function that raises once nobody waits,
        to be called now and then."""
        if self._asked >= self._most:
            raise Busy
        left = Event()

        def go_on(*_: object) -> None:
            if left.is_set():
                raise GivenUp

        self._asked += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work, go_on)
        future.add_done_callback(self._done)
        try:
            return await asyncio.shield(future)
        finally:
            left.set()

    def close(self) -> None:
        """Wait for what is under way."""
        self._threads.shutdown(cancel_futures=True)

    def _done(self, future: asyncio.Future[T]) -> None:
        self._asked -= 1
        if not future.cancelled():
            future.exception()  # taken note of, where nobody waits for it
