"""A model behind HTTP: what the routes call, and which model is served now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from time import monotonic, perf_counter
from typing import NamedTuple, TypeVar

import numpy as np

from longrec.artifact.artifact import Artifact
from longrec.artifact.folder import bytes_to_load
from longrec.core.arrays import Ints
from longrec.core.memory import (
    check_room,
    file_bytes,
    give_back_holes,
    let_go_of_files,
    own_bytes,
)
from longrec.retrieval.index_cache import open_index
from longrec.serving.http import access_log
from longrec.serving.http.errors import Busy
from longrec.serving.http.lanes import Lanes
from longrec.serving.http.settings import Settings
from longrec.serving.http.telemetry import Telemetry
from longrec.serving.http.threads import Courtesy, Pause, Threads, in_thread
from longrec.serving.stream.group_commit import run_batch
from longrec.serving.stream.id_keys import id_of
from longrec.serving.stream.recommending import Recommendation, RecommendRequest
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.user_log import record_lag
from longrec.serving.stream.writer import Counts, Entry, Observed

T = TypeVar("T")

SHORT, LARGE, LONG = ("short", 2, 64), ("large", 1, 64), ("long", 1, 8)
"""Threads, and how much may be asked at once: of what is rarely asked, of requests that are larger
than most, and of what takes long."""
LIGHT = 16
"""Weight of the recommendations of one request up to which they are found together with others'."""
EVENTS, ITEMS = 16, 16
"""Events of a history that are read, and items that are found, in the time of one user more."""
TOGETHER = 16
"""Users of a large request who are ranked at once."""
FEW = 16
"""Events of a request that are logged together with others'."""
AT_ONCE, MANY_AT_ONCE = 8, 512
"""Events of a larger request that are logged at once, beside others' requests and alone: a user's
few events are taken in one after the other, many in one go."""
LOOK_EVERY, MAPPED = 0.5, 16 << 20
"""Seconds between two looks at memory, and bytes of the store's files that may be mapped."""
HOLES, HOLES_EVERY = 16 << 20, 5.0
"""Bytes by which the process may grow before what is free in it is given back, and seconds between
two such times: it takes some milliseconds."""
PATIENCE = 4.0
"""Seconds that a server that stops waits for what its store is doing."""
LAG_EVERY, LAG_USERS = 15.0, 512
"""Seconds between two looks at how far records are behind, and users looked at each time."""


class ServedStream:
    """A stream that is served: batches of its requests, and how many requests use it.

    Parameters
    ----------
    stream : which `Service` closes.
    queue : events, and recommendations, that may wait.
    telemetry : where batches and events are counted.
    large : does what is larger than most requests.
    courtesy : to which large requests give way.
    """

    def __init__(
        self, stream: Stream, queue: int, telemetry: Telemetry, large: Threads, courtesy: Courtesy
    ) -> None:
        self.stream, self._telemetry = stream, telemetry
        self._large, self._courtesy, self._queue = large, courtesy, queue
        self.events: Lanes[_Events, _Done] = Lanes(
            "events",
            stream.store,
            partial(_log_each, stream),
            queue,
            partial(telemetry.batch, "events", "log"),
        )
        self.queries: Lanes[list[RecommendRequest], list[Recommendation]] = Lanes(
            "queries",
            stream.store,
            lambda batches: _recommend_each(stream, batches),
            queue,
            partial(telemetry.batch, "recommendations", "rank"),
        )
        self._one_large, self._waiting = asyncio.Lock(), 0
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

    async def log_and_rank(
        self, entries: list[Entry], wanted: list[RecommendRequest], refused: int
    ) -> tuple[list[Observed], list[Recommendation]]:
        """Log events together with those of other requests, and find what is wanted once they are
        logged; many events in parts, between which others' come first.

        `refused` events of the request are counted, and not logged.
        """
        few = len(entries) <= FEW
        at_once = wanted if few and is_light(wanted) else []
        observed, found = _Done([], [])
        if not few:
            observed = await self._log_in_parts(entries)
        elif entries or at_once:
            observed, found = await self._log(entries, at_once)
        self._telemetry.events(Counts().plus(observed), refused)
        if isinstance(found, BaseException):
            raise found
        if len(at_once) < len(wanted):
            return observed, await self.rank(wanted)
        self._count_cold(found)
        return observed, found

    async def _log(self, entries: list[Entry], wanted: list[RecommendRequest]) -> _Done:
        """Log events, then find what is wanted, all of a user in the user's lane."""
        if self.events.count == 1:
            work = _Events(entries, wanted), len(entries) + len(wanted)
            return (await self.events.submit({0: work}))[0]
        logged = self.events.split(entry.user for entry in entries)
        asked = self.events.split(request.user for request in wanted)
        works = {}
        for lane in logged.keys() | asked.keys():
            own = [entries[place] for place in logged.get(lane, ())]
            own_wanted = [wanted[place] for place in asked.get(lane, ())]
            works[lane] = _Events(own, own_wanted), len(own) + len(own_wanted)
        done = await self.events.submit(works)
        observed = _in_order(logged, {lane: done[lane].observed for lane in logged})
        found: dict[int, list[Recommendation]] = {}
        for lane in asked:
            of_lane = done[lane].found
            if isinstance(of_lane, BaseException):
                return _Done(observed, of_lane)
            found[lane] = of_lane
        return _Done(observed, _in_order(asked, found))

    async def _rank_light(self, requests: list[RecommendRequest]) -> list[Recommendation]:
        """The best items for some users, found in the lanes of each."""
        if self.queries.count == 1:
            return (await self.queries.submit({0: (requests, len(requests))}))[0]
        asked = self.queries.split(request.user for request in requests)
        works = {lane: [requests[place] for place in places] for lane, places in asked.items()}
        found = await self.queries.submit({lane: (w, len(w)) for lane, w in works.items()})
        return _in_order(asked, found)

    async def _log_in_parts(self, entries: list[Entry]) -> list[Observed]:
        if self._waiting and self._waiting + len(entries) > self._queue:
            raise Busy
        self._waiting += len(entries)
        observed: list[Observed] = []
        try:
            async with self._one_large:
                while len(observed) < len(entries):
                    began, alone = perf_counter(), self._courtesy.alone
                    end = len(observed) + (MANY_AT_ONCE if alone else AT_ONCE)
                    part = entries[len(observed) : end]
                    observed += (await self._log(part, [])).observed
                    await self._courtesy.give_way(perf_counter() - began)
        finally:
            self._waiting -= len(entries)
        return observed

    async def rank(self, requests: list[RecommendRequest]) -> list[Recommendation]:
        """The best items for some users, found together with those for other requests; where that
        takes much longer than most, beside them, and in parts between which others' come first."""
        if is_light(requests):
            answers = await self._rank_light(requests)
        else:
            answers = await self._large.run_long(partial(_rank_in_parts, self.stream, requests))
        self._count_cold(answers)
        return answers

    def _count_cold(self, answers: Sequence[Recommendation]) -> None:
        cold = sum(not answer.personal for answer in answers)
        if cold:
            self._telemetry.cold.inc(cold)

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
        self.courtesy = Courtesy()
        self.large, self.long = (Threads(*one, self.courtesy) for one in (LARGE, LONG))
        parts = stream.store.parts
        self._short = [Threads(*SHORT, self.courtesy) for _ in range(parts + (parts > 1))]
        self.current = self._served(stream)
        telemetry.watch("events", lambda: self.current.events.waiting)
        telemetry.watch("recommendations", lambda: self.current.queries.waiting)
        self._monitors = [
            asyncio.create_task(watch) for watch in (self._watch_lag(), self._watch_memory())
        ]
        self._after = b""

    def short(self, user: bytes | None = None) -> Threads:
        """Threads for what is rarely asked about a user, or of no one server of the store: as in
        `Lanes` what is asked of one server waits for no other one, which may be silent."""
        return self._short[-1 if user is None else self.current.stream.store.part_of(user)]

    async def replace(self, stream: Stream) -> Stream:
        """Serve another stream from now on; -> the old one, once no request uses it."""
        old = self.current
        self.current = self._served(stream)
        await old.unused()
        await old.drain()
        return old.stream

    async def close(self) -> None:
        """Do what waits, then close the stream; what a store does not let end is left behind."""
        for monitor in self._monitors:
            monitor.cancel()
        try:
            async with asyncio.timeout(PATIENCE):
                await self.current.drain()
                for lane in (*self._short, self.large, self.long):
                    await lane.close()
                await in_thread(self.current.stream.close)
        except TimeoutError:
            access_log.write("the store does not answer: it is left as it is", logging.WARNING)

    def _served(self, stream: Stream) -> ServedStream:
        return ServedStream(stream, self.settings.queue, self.telemetry, self.large, self.courtesy)

    async def _watch_lag(self) -> None:
        """Measure now and then how many records are behind their logs."""
        while True:
            with suppress(Exception):  # the store may be away
                await self._measure_lag()
            await asyncio.sleep(LAG_EVERY)

    async def _measure_lag(self) -> None:
        with self.current.in_use() as stream:
            lag = partial(record_lag, stream.store, stream.engine.digest, self._after, LAG_USERS)
            users, behind, self._after = await self.short().run(lag)
        self.telemetry.checked_records.set(users)
        self.telemetry.lagging_records.set(behind)

    async def _watch_memory(self) -> None:
        """Keep pages of the store's files that were read from counting as the server's memory, and
        what requests took and freed from staying with it."""
        begun, own, given_back = file_bytes(), own_bytes(), monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            folder = self.current.stream.store.folder
            with suppress(Exception):
                if folder is not None and file_bytes() > begun + MAPPED:
                    await self.short().run(partial(let_go_of_files, folder))
                if own_bytes() > own + HOLES and monotonic() - given_back > HOLES_EVERY:
                    await self.short().run(give_back_holes)
                    own, given_back = own_bytes(), monotonic()


def is_light(requests: Sequence[RecommendRequest]) -> bool:
    """Whether recommendations take no longer than some users' together usually do."""
    weight = 0
    for request in requests:
        weight += 1 + len(request.history) // EVENTS + request.k // ITEMS
        if weight > LIGHT:
            return False
    return True


def _rank_in_parts(
    stream: Stream, requests: Sequence[RecommendRequest], pause: Pause
) -> list[Recommendation]:
    answers: list[Recommendation] = []
    for start in range(0, len(requests), TOGETHER):
        for found in stream.ranker.recommend_each(requests[start : start + TOGETHER], pause):
            if isinstance(found, BaseException):
                raise found
            answers.append(found)
        pause()
    return answers


def _in_order(places: Mapping[int, list[int]], found: Mapping[int, Sequence[T]]) -> list[T]:
    """What was found in lanes, in the order in which it was asked for."""
    pairs = [pair for lane, own in places.items() for pair in zip(own, found[lane], strict=True)]
    return [one for _, one in sorted(pairs, key=lambda pair: pair[0])]


class _Events(NamedTuple):
    """Events of a request, and what is to be found once they are logged."""

    entries: list[Entry]
    wanted: list[RecommendRequest]


class _Done(NamedTuple):
    """What became of events, and what was found, or why nothing was: the events are logged."""

    observed: list[Observed]
    found: list[Recommendation] | BaseException


def _log_each(stream: Stream, works: list[_Events]) -> list[_Done | BaseException]:
    """Log the events of some requests in one go, then find what they want in another."""
    done: list[_Done | BaseException] = [_Done([], []) for _ in works]
    with_events = [number for number, work in enumerate(works) if work.entries]
    if with_events:
        outcomes = stream.writer.write([works[number].entries for number in with_events])
        for number, outcome in zip(with_events, outcomes, strict=True):
            done[number] = outcome if isinstance(outcome, BaseException) else _Done(outcome, [])
    asking = [n for n, work in enumerate(works) if work.wanted and isinstance(done[n], _Done)]
    if asking:
        wanted = [works[number].wanted for number in asking]
        lists = run_batch(partial(_recommend_each, stream), wanted)
        for number, found in zip(asking, lists, strict=True):
            done[number] = done[number]._replace(found=found)  # type: ignore[union-attr]
    return done


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


def load_run(run: Path) -> Artifact:
    """The recommender in a folder, if there is memory to load it.

    Raises
    ------
    LongrecError
        When it cannot be loaded, or does not fit; the message says why.
    """
    check_room(bytes_to_load(run), str(run))
    return Artifact.load(run)


def open_stream(
    settings: Settings,
    progress: Callable[[float, float, str], None] | None = None,
    artifact: Artifact | None = None,
) -> Stream:
    """The stream that settings describe, with its index.

    Where its store serves another model, records of this one are made as users are read, until
    `Stream.rebuild` has made them all.

    Raises
    ------
    LongrecError
        When run, index or store cannot be opened; the message says why.
    """
    artifact = artifact or load_run(settings.run)
    index = open_index(artifact, settings.index, progress).index
    return Stream.open(
        artifact,
        settings.store,
        settings.durability,
        beside=True,
        index=index,
        fresh_counts=settings.fresh_counts,
        max_ahead=settings.max_ahead,
        another_catalog=settings.another_catalog,
    )


def item_id(stream: Stream, index: int) -> str | int:
    """An item's own id as JSON has it: numbers stay numbers, and what is neither is text."""
    item = stream.ids[int(index) - 1]
    item = item.item() if hasattr(item, "item") else item
    if isinstance(item, bytes):
        return id_of(item)
    return item if isinstance(item, int | str) else str(item)


def item_ids(stream: Stream, indices: Ints) -> list[str | int]:
    """The ids of several items."""
    if isinstance(stream.ids, np.ndarray):
        found: list[str | int] = stream.ids[indices - 1].tolist()
        return found
    return [item_id(stream, index) for index in indices.tolist()]
