"""Batches of requests in lanes: those for users of one server of a store wait for no other server.

A store on one server has one lane. One of several servers has a lane for each, and one for what
needs none of them, such as histories that are given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from longrec.serving.http.batcher import Batcher, OnBatch
from longrec.serving.stores.protocol import Store

W = TypeVar("W")
R = TypeVar("R")


class Lanes(Generic[W, R]):
    """Does work in batches, those of a lane in its order; see `Batcher`."""

    def __init__(
        self,
        name: str,
        store: Store,
        do: Callable[[list[W]], Sequence[R | BaseException]],
        limit: int,
        on_batch: OnBatch,
    ) -> None:
        self._store = store
        self.count = store.parts + (store.parts > 1)
        self._batchers = [Batcher(name, do, limit, on_batch) for _ in range(self.count)]

    @property
    def waiting(self) -> int:
        """The weight of what waits."""
        return sum(batcher.waiting for batcher in self._batchers)

    def split(self, users: Iterable[bytes | None]) -> dict[int, list[int]]:
        """Per lane the places of those who are in it; None: of nobody in the store."""
        places: dict[int, list[int]] = {}
        for place, user in enumerate(users):
            lane = self.count - 1 if user is None else self._store.part_of(user)
            places.setdefault(lane, []).append(place)
        return places

    async def submit(self, works: Mapping[int, tuple[W, int]]) -> dict[int, R]:
        """The results of work, by lane as it is given, each with its weight.

        Raises
        ------
        Busy
            When there is no room to wait in a lane; what is in others may have been done.
        """
        if len(works) == 1:
            [(lane, (work, weight))] = works.items()
            return {lane: await self._batchers[lane].submit(work, weight)}
        jobs = [self._batchers[lane].submit(*work) for lane, work in works.items()]
        results: dict[int, R] = {}
        failed: BaseException | None = None
        for lane, result in zip(
            works, await asyncio.gather(*jobs, return_exceptions=True), strict=True
        ):
            if isinstance(result, BaseException):
                failed = failed or result
            else:
                results[lane] = result
        if failed is not None:
            raise failed
        return results

    async def close(self) -> None:
        """Do what waits, take nothing more, and end the threads."""
        await asyncio.gather(*(batcher.close() for batcher in self._batchers))
