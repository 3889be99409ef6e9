"""A model behind HTTP: what the routes call, and which model is served now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice

from longrec.artifact.artifact import Artifact
from longrec.retrieval.index_cache import open_index
from longrec.serving.http.batcher import Batcher
from longrec.serving.http.settings import Settings
from longrec.serving.http.telemetry import Telemetry
from longrec.serving.http.threads import Threads
from longrec.serving.stream.id_keys import id_of
from longrec.serving.stream.recommending import Recommendation, RecommendRequest
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.user_log import record_lag
from longrec.serving.stream.writer import Entry, Observed

SHORT, LONG = (2, 64), (1, 8)
"""Threads, and how much may be asked at once: of what is rarely asked, and of what takes long."""
TOGETHER = 64
"""Users of one request who are ranked at once."""
LAG_EVERY, LAG_USERS = 15.0, 512
"""Seconds between two looks at how far records are behind, and users looked at each time."""


class ServedStream:
    """A stream that is served: batches of its requests, and how many requests use it.

    Parameters
    ----------
    stream : which `Service` closes.
    queue : events, and recommendations, that may wait.
    telemetry : where batches and events are counted.
    """

    def __init__(self, stream: Stream, queue: int, telemetry: Telemetry) -> None:
        self.stream, self._telemetry = stream, telemetry
        self.events: Batcher[list[Entry], list[Observed]] = Batcher(
            "events",
            lambda batches: stream.writer.write(batches),
            queue,
            partial(telemetry.batch, "events", "log"),
        )
        self.queries: Batcher[list[RecommendRequest], list[Recommendation]] = Batcher(
            "queries",
            lambda batches: _recommend_each(stream, batches),
            queue,
            partial(telemetry.batch, "recommendations", "rank"),
        )
        self._users, self._unused = 0, asyncio.Event()
        self._unused.set()
        telemetry.model(stream)

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

    async def log(self, entries: list[Entry]) -> list[Observed]:
        """Log events together with those of other requests."""
        observed = await self.events.submit(entries, len(entries))
        self._telemetry.events(observed)
        return observed

    async def rank(self, requests: list[RecommendRequest]) -> list[Recommendation]:
        """The best items for some users, found together with those for other requests.

        Many users are asked for in parts, so that others need not wait for all of them.
        """
        answers: list[Recommendation] = []
        for start in range(0, len(requests), TOGETHER):
            part = requests[start : start + TOGETHER]
            # One reads 16 events while it ranks once.
            weight = len(part) + sum(len(request.history) // 16 for request in part)
            answers += await self.queries.submit(part, weight)
        cold = sum(not answer.personal for answer in answers)
        if cold:
            self._telemetry.cold.inc(cold)
        return answers

    async def unused(self) -> None:
        """Wait until no request uses it."""
        await self._unused.wait()

    async def drain(self) -> None:
        """Do what waits, and take nothing more."""
        await self.events.close()
        await self.queries.close()


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
        self.current = ServedStream(stream, settings.queue, telemetry)
        self.short, self.long = Threads(*SHORT), Threads(*LONG)
        telemetry.watch("events", lambda: self.current.events.waiting)
        telemetry.watch("recommendations", lambda: self.current.queries.waiting)
        self._monitor = asyncio.create_task(self._watch_lag())
        self._after = b""

    async def replace(self, stream: Stream) -> Stream:
        """Serve another stream from now on; -> the old one, once no request uses it."""
        old = self.current
        self.current = ServedStream(stream, self.settings.queue, self.telemetry)
        await old.unused()
        await old.drain()
        return old.stream

    async def close(self) -> None:
        """Do what waits, then close the stream."""
        self._monitor.cancel()
        await self.current.drain()
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


def _recommend_each(
    stream: Stream, batches: list[list[RecommendRequest]]
) -> list[list[Recommendation] | BaseException]:
    """The answers to some lists of requests; where one of a list fails, the list does."""
    found = iter(stream.ranker.recommend_each([one for batch in batches for one in batch]))
    answers: list[list[Recommendation] | BaseException] = []
    for batch in batches:
        own = list(islice(found, len(batch)))
        failed = next((one for one in own if isinstance(one, BaseException)), None)
        answers.append(failed or [one for one in own if isinstance(one, Recommendation)])
    return answers


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
    where = settings.store, settings.durability
    fresh_counts, max_ahead = settings.fresh_counts, settings.max_ahead
    return Stream.open(artifact, *where, beside, index, None, fresh_counts, max_ahead)


def item_id(stream: Stream, index: int) -> str | int:
    """An item's own id as JSON has it: numbers stay numbers, and what is neither is text."""
    item = stream.ids[int(index) - 1]
    item = item.item() if hasattr(item, "item") else item
    if isinstance(item, bytes):
        return id_of(item)
    return item if isinstance(item, int | str) else str(item)
