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
from longrec.serving.http.settings import Settings
from longrec.serving.http.telemetry import Telemetry
from longrec.serving.http.threads import Threads
from longrec.serving.stream.group_commit import run_batch
from longrec.serving.stream.id_keys import id_of
from longrec.serving.stream.recommending import Recommendation, RecommendRequest
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.user_log import record_lag
from longrec.serving.stream.writer import Entry, Observed

W = TypeVar("W")
R = TypeVar("R")

SHORT, LONG = (2, 64), (1, 8)
"""Threads, and how much may be asked at once: of what is rarely asked, and of what takes long."""
LAG_EVERY, LAG_USERS = 15.0, 512
"""Seconds between two looks at how far records are behind, and users looked at each time."""


class ServedStream:
    """A stream that is served, and how many requests use it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._users, self._unused = 0, asyncio.Event()
        self._unused.set()

    @contextmanager
    def in_use(self) -> Iterator[Stream]:
        """Keep it open meanwhile."""
        self._users += 1
        self._unused.clear()
        try:
            yield self.stream
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def unused(self) -> None:
        """Wait until no request uses it."""
        await self._unused.wait()


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
        self.current = ServedStream(stream)
        self._events: Batcher[tuple[Stream, list[Entry]], list[Observed]] = Batcher(
            "events",
            partial(_by_stream, lambda stream, batches: stream.writer.write(batches)),
            settings.queue,
            partial(telemetry.batch, "events", "log"),
        )
        self._queries: Batcher[tuple[Stream, RecommendRequest], Recommendation] = Batcher(
            "queries",
            partial(_by_stream, lambda stream, requests: stream.ranker.recommend_each(requests)),
            settings.queue,
            partial(telemetry.batch, "recommendations", "rank"),
        )
        self.short, self.long = Threads(*SHORT), Threads(*LONG)
        telemetry.watch("events", lambda: self._events.waiting)
        telemetry.watch("recommendations", lambda: self._queries.waiting)
        self._monitor = asyncio.create_task(self._watch_lag())
        self._after = b""
        telemetry.model(stream)

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
        """Serve another stream from now on; -> the old one, once no request uses it."""
        old, self.current = self.current, ServedStream(stream)
        self.telemetry.model(stream)
        await old.unused()
        return old.stream

    async def close(self) -> None:
        """Do what waits, then close the stream."""
        self._monitor.cancel()
        await self._events.close()
        await self._queries.close()
        await self.short.close()
        await self.long.close()
        self.current.stream.close()

    async def _watch_lag(self) -> None:
        """Measure now and then how many records are behind their logs."""
        telemetry = self.telemetry
        while True:
            with suppress(Exception), self.current.in_use() as stream:  # the store may be away
                digest = stream.engine.digest
                lag = partial(record_lag, stream.store, digest, self._after, LAG_USERS)
                users, behind, self._after = await self.short.run(lag)
                telemetry.checked_records.set(users)
                telemetry.lagging_records.set(behind)
            await asyncio.sleep(LAG_EVERY)


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


def item_id(stream: Stream, index: int) -> str | int:
    """An item's own id as JSON has it: numbers stay numbers, and what is neither is text."""
    item = stream.ids[int(index) - 1]
    item = item.item() if hasattr(item, "item") else item
    if isinstance(item, bytes):
        return id_of(item)
    return item if isinstance(item, int | str) else str(item)


def _by_stream(
    do: Callable[[Stream, list[W]], Sequence[R | BaseException]],
    works: Sequence[tuple[Stream, W]],
) -> list[R | BaseException]:
    """Do work, that for one stream in one go: there are two while the model is changed."""
    results: list[R | BaseException] = []
    for _, neighbours in groupby(works, key=lambda work: id(work[0])):
        streams, batch = zip(*neighbours, strict=True)
        results += run_batch(partial(do, streams[0]), list(batch))
    return results
