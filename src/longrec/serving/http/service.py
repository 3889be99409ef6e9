"""A model behind HTTP: what the routes call, and which model is served now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby
from typing import TypeVar

from longrec.artifact.artifact import Artifact
from longrec.retrieval.index_cache import open_index
from longrec.serving.http.batcher import Batcher
from longrec.serving.http.lane import Lane
from longrec.serving.http.settings import Settings
from longrec.serving.http.telemetry import Telemetry
from longrec.serving.stream.group_commit import own
from longrec.serving.stream.recommending import Recommendation, RecommendRequest
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.user_log import record_lag
from longrec.serving.stream.writer import Entry, Observed

T = TypeVar("T")
W = TypeVar("W")
R = TypeVar("R")

ASIDE, LONG = (2, 64), (1, 8)
"""Threads, and how much may be asked at once: of what is rarely asked, and of what takes long."""
LOOK_EVERY, LOOK_AT = 15.0, 512
"""Seconds between two looks at the store, and users looked at each time."""


class Served:
    """A stream that is served, and how many requests are at it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._users, self._free = 0, asyncio.Event()
        self._free.set()

    @contextmanager
    def used(self) -> Iterator[Stream]:
        """Keep it open meanwhile."""
        self._users += 1
        self._free.clear()
        try:
            yield self.stream
        finally:
            self._users -= 1
            if not self._users:
                self._free.set()

    async def unused(self) -> None:
        """Wait until no request is at it."""
        await self._free.wait()


class Service:
    """Made and called in an event loop's thread; models work in threads beside it.

    Parameters
    ----------
    settings : of the server.
    stream : of the model to begin with; closed by `close`.
    telemetry : where batches and events are counted.
    """

    def __init__(self, settings: Settings, stream: Stream, telemetry: Telemetry) -> None:
        self.settings, self.telemetry = settings, telemetry
        self.current = Served(stream)
        told = telemetry.batch
        self._events: Batcher[tuple[Stream, list[Entry]], list[Observed]] = Batcher(
            "events", _log, settings.queue, partial(told, "events", "log")
        )
        self._queries: Batcher[tuple[Stream, RecommendRequest], Recommendation] = Batcher(
            "queries", _rank, settings.queue, partial(told, "recommendations", "rank")
        )
        self.aside, self.long = Lane("aside", *ASIDE), Lane("long", *LONG)
        telemetry.watch("events", lambda: self._events.waiting)
        telemetry.watch("recommendations", lambda: self._queries.waiting)
        self._looking = asyncio.create_task(self._look())
        self._after = b""
        self.show()

    def show(self) -> None:
        """Tell the metrics which model is served."""
        stream = self.current.stream
        artifact, index = stream.artifact, stream.index
        self.telemetry.model(
            artifact.name,
            artifact.state_digest,
            artifact.catalog_version,
            index.name,
            index.recall,
        )

    async def log(self, stream: Stream, entries: list[Entry]) -> list[Observed]:
        """Log events as one work of a batch."""
        observed = await self._events.submit((stream, entries), len(entries))
        self.telemetry.events(observed)
        return observed

    async def rank(self, stream: Stream, query: RecommendRequest) -> Recommendation:
        """The best items, found in a batch."""
        weight = 1 + len(query.history) // 16  # one reads so many events while it ranks once
        answer = await self._queries.submit((stream, query), weight)
        if not answer.personal:
            self.telemetry.cold.inc()
        return answer

    async def replace(self, stream: Stream) -> Stream:
        """Serve another stream from now on; -> the old one, once no request is at it."""
        old, self.current = self.current, Served(stream)
        self.show()
        await old.unused()
        return old.stream

    async def close(self) -> None:
        """Do what waits, then close the stream."""
        self._looking.cancel()
        await self._events.close()
        await self._queries.close()
        self.aside.close()
        self.long.close()
        self.current.stream.close()

    async def _look(self) -> None:
        """Note now and then how the store is."""
        while True:
            with suppress(Exception):  # of a store that is away: routes say so
                await self._look_once()
            await asyncio.sleep(LOOK_EVERY)

    async def _look_once(self) -> None:
        telemetry = self.telemetry
        with self.current.used() as stream:
            digest = stream.engine.digest
            look = partial(record_lag, stream.store, digest, self._after, LOOK_AT)
            users, behind, self._after = await self.aside.do(look)
        telemetry.looked.set(users)
        telemetry.behind.set(behind)


def open_stream(
    settings: Settings,
    beside: bool = False,
    progress: Callable[[float, float, str], None] | None = None,
    artifact: Artifact | None = None,
) -> Stream:
    """The stream that settings describe, with its index.

    Raises
    ------
    LongrecError
        When run, index or store cannot be opened; the message says why.
    """
    artifact = artifact or Artifact.load(settings.run)
    index = open_index(artifact, settings.index, progress).index
    return Stream.open(artifact, settings.store, settings.durability, beside, index)


def _log(works: Sequence[tuple[Stream, list[Entry]]]) -> list[list[Observed] | BaseException]:
    return _by_stream(works, lambda stream, some: stream.writer.write(some))


def _rank(works: Sequence[tuple[Stream, RecommendRequest]]) -> list[Recommendation | BaseException]:
    return _by_stream(works, lambda stream, some: stream.ranker.recommend_each(some))


def _by_stream(
    works: Sequence[tuple[Stream, W]],
    do: Callable[[Stream, list[W]], Sequence[R | BaseException]],
) -> list[R | BaseException]:
    """Do works, those for one stream in one go: there are two while the model is changed."""
    done: list[R | BaseException] = []
    for _, neighbours in groupby(works, key=lambda work: id(work[0])):
        (stream, first), *rest = neighbours
        some = [first, *(work for _, work in rest)]
        try:
            done += do(stream, some)
        except Exception as error:  # the other stream's works are done
            done += [error, *(own(error) for _ in rest)]
    return done
