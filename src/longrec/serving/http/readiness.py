"""Answers to those who watch a server, at a cost that does not grow with how often they ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from longrec.serving.http.threads import in_thread
from longrec.serving.stores.protocol import StoreUnavailable

KEPT = 1.0
"""Seconds for which it counts that a store answered, or did not."""
WITHIN = 2.0
"""Seconds in which a store must answer to be ready."""
REST = 4.0
"""How many times as long as making a text took none is made afterwards."""


class Readiness:
    """Whether a store answers. It is asked once a second at most, beside all other work.

    Parameters
    ----------
    ask : asks the store; raises what is wrong.
    """

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[None] | None = None
        self._asked = float("-inf")
        self._error: Exception | None = None

    async def check(self) -> None:
        """Raise what is wrong with the store, if anything is.

        Raises
        ------
        StoreUnavailable
            When it does not answer in time.
        """
        if self._asking is None and monotonic() - self._asked >= KEPT:
            self._asked = monotonic()
            self._asking = asyncio.create_task(self._run())
        if self._asking is not None:
            left = self._asked + WITHIN - monotonic()
            await asyncio.wait([self._asking], timeout=max(0.0, left))
        if self._asking is not None:
            raise StoreUnavailable(f"the store did not answer in {WITHIN:g} s")
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        try:
            await self._ask()
            self._error = None
        except Exception as error:
            self._error = error
        finally:
            self._asking = None


class SharedText:
    """A text that takes a while to make: all who ask before it is begun get the same one, made
    after they asked, and making it takes a fifth of the time at most.

    Parameters
    ----------
    make : makes it, in a thread of its own.
    """

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make, self._one_at_a_time, self._free = make, asyncio.Lock(), 0.0
        self._next: asyncio.Task[bytes] | None = None

    async def get(self) -> bytes:
        """The text as it is now."""
        if self._next is None:
            self._next = asyncio.create_task(self._run())
        return await asyncio.shield(self._next)

    async def _run(self) -> bytes:
        async with self._one_at_a_time:
            await asyncio.sleep(max(0.0, self._free - monotonic()))
            self._next = None  # who asks from now on gets another one
            began = monotonic()
            try:
                return await in_thread(self._make)
            finally:
                self._free = monotonic() + REST * (monotonic() - began)
