"""Who plays a script: the library, streams on stores, servers, each behind the same face.

A new store joins `PARTIES` by a line, a new transport by a line and a class like those here.
"""

from __future__ import annotations

import asyncio
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import httpx
import polars as pl
from congruence.scripts import NEW, Ask, Event
from congruence.systems import N
from serving.http.served import ServeProcess, server_of
from serving.small_streams import frame_of, grown
from small_histories import histories_of_ids

from longrec.core.choices import ExcludeSeen
from longrec.data.given_histories import GivenEvent
from longrec.recommender import Recommender
from longrec.serving.stream.id_keys import user_key
from longrec.serving.stream.recommending import Recommendation
from longrec.serving.stream.stream import Stream
from longrec.serving.stream.user_log import user_log

Id = str | int
Kept = tuple[int, int | None, int | None]
"""Events kept of a user, those of unknown items, those that came late; None: not counted just now,
since the record is missing or behind."""


Counts = tuple[int, int, int]
"""Events that are new, and that were there already; of the new ones those of unknown items."""


class Answer(NamedTuple):
    """Items, best first, their scores, and the policy ("" without items).

    unknown : events of unknown items in the history; None: not said.
    """

    items: list[int]
    scores: list[float]
    policy: str
    unknown: int | None = None


class Party(Protocol):
    """Somebody who plays a script."""

    def observe(self, events: Sequence[Event]) -> Counts:
        """Take events in."""

    def forget(self, user: Id) -> bool:
        """Erase a user; -> whether there was something."""

    def ask(self, asked: Ask) -> Answer:
        """The best items."""

    def look(self, user: Id) -> Kept:
        """What is kept of a user."""

    def simply(self, what: str) -> None:
        """See `scripts.Simply`."""

    def close(self) -> None:
        """End."""


class Library:
    """`recommend` on histories, which it keeps itself: all others are held against it."""

    def __init__(self, rec: Recommender, folder: Path) -> None:
        self.rec, self._folder, self._asked = rec, folder, 0
        self._logs: dict[str, list[Event]] = {}

    def observe(self, events: Sequence[Event]) -> Counts:
        new = list[tuple[int, int]]()
        for event in events:
            log = self._logs.setdefault(str(event.user), [])
            if event.event_id is None or all(event.event_id != e.event_id for e in log):
                log.append(event)
                new.append((_number(event.item), event.time))
        return len(new), len(events) - len(new), self._known(new).count(False)

    def forget(self, user: Id) -> bool:
        return bool(self._logs.pop(str(user), []))

    def ask(self, asked: Ask) -> Answer:
        log = [(event.item, event.time) for event in self._logs.get(str(asked.user), [])]
        history = [(_number(i), t) for i, t in (log if asked.history is None else asked.history)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown items, and where no item is left
            found = self._recommend(history, asked.exclude_seen)
        wanted = ~found["item"].is_in([_number(item) for item in asked.exclude])
        if asked.among is not None:
            wanted &= found["item"].is_in([_number(item) for item in asked.among])
        unknown = self._known(history).count(False)
        return _answer(found.filter(wanted).head(asked.k))._replace(unknown=unknown)

    def _recommend(
        self, history: Sequence[tuple[int, int]], exclude_seen: ExcludeSeen
    ) -> pl.DataFrame:
        """All items for a history, given as it is or, at times, as a user of other data."""
        rec, self._asked = self.rec, self._asked + 1
        items = [item for item, _ in history]
        if not rec.model.takes_times and self._asked % 12:
            return rec.recommend(histories=[items], k=N + len(NEW), exclude_seen=exclude_seen)
        rows = {"another": [(0, 0)]}
        if history:
            clocks = self._clocks(history, rec.limit)
            rows["someone"] = list(zip(items, clocks, strict=True))
        data = histories_of_ids(self._folder / f"histories{self._asked}", rows)
        return rec.recommend(["someone"], data, k=N + len(NEW), exclude_seen=exclude_seen)

    def look(self, user: Id) -> Kept:
        history = [(_number(event.item), event.time) for event in self._logs.get(str(user), [])]
        known = self._known(history)
        clocks = self._clocks(history)
        late = sum(k and t < c for (_, t), k, c in zip(history, known, clocks, strict=True))
        return len(history), known.count(False), late

    def simply(self, what: str) -> None:
        if what == "grow":
            self.rec = grown(self.rec, NEW)

    def close(self) -> None: ...

    def _known(self, history: Sequence[tuple[int, int]]) -> list[bool]:
        return [bool(index) for index in self.rec.catalog.find([item for item, _ in history])]

    def _clocks(self, history: Sequence[tuple[int, int]], window: int | None = None) -> list[int]:
        """The time that each event counts at: the latest of a known item's so far.

        Of a window the last known events alone are looked at.
        """
        known, first = self._known(history), -(10**10)
        times = [t if k else first for (_, t), k in zip(history, known, strict=True)]
        read = [n for n, k in enumerate(known) if k][-(window or len(known)) :]
        times[: read[0] if read else 0] = [first] * (read[0] if read else 0)
        return list(accumulate(times, max))


class Streamed:
    """A stream on a store."""

    def __init__(self, rec: Recommender, url: str) -> None:
        self.rec, self._url = rec, url
        self.stream = rec.open_stream(url, "process")

    def observe(self, events: Sequence[Event]) -> Counts:
        stream = self.stream
        if len(events) == 1:
            [event] = events
            found = stream.observe(event.user, event.item, event.time, event.event_id)
            return int(found.new), int(not found.new), int(found.new and not found.known)
        # A frame's columns have one type, and its event ids are all there or none.
        rows = [(str(e.user), str(e.item), e.time) for e in events]
        if events[0].event_id is None:
            counts = stream.observe_many(frame_of(rows))
        else:
            names = [(*row, e.event_id) for row, e in zip(rows, events, strict=True)]
            counts = stream.observe_many(frame_of(names, "event_id"))
        return counts.accepted, counts.duplicates, counts.unknown

    def forget(self, user: Id) -> bool:
        return self.stream.forget(user)

    def ask(self, asked: Ask) -> Answer:
        given = asked.k, asked.exclude, asked.among, asked.exclude_seen
        if asked.history is None:
            frame = self.stream.recommend(asked.user, *given)
            assert frame["rank"].to_list() == list(range(1, len(frame) + 1))
            return _answer(frame)
        ranker = self.stream.ranker
        k, exclude, among, seen = given
        history = [GivenEvent(item, time) for item, time in asked.history]
        excluded, _ = ranker.excluded(exclude, among)
        [found] = ranker.recommend_each([ranker.history_request(history, k, excluded, seen)])
        assert isinstance(found, Recommendation)
        items = [self.stream.ids[item - 1] for item in found.items]
        policy = "personal" if found.personal else "cold"
        return Answer(items, found.scores.tolist(), policy if items else "", found.unknown)

    def look(self, user: Id) -> Kept:
        found = user_log(self.stream.store, self.stream.engine.digest, user_key(user), 0, 0)
        if found is None:
            return 0, 0, 0
        header = found.header
        if header is None or header.sequence < found.events:
            return found.events, None, None
        return found.events, header.skipped, header.late

    def simply(self, what: str) -> None:
        if what == "lose":
            self.stream.store.drop(self.stream.engine.digest)
        elif what == "rebuild":
            self.stream.rebuild()
        else:
            self.stream.close()
            if what == "grow":
                self.rec = grown(self.rec, NEW)
            self.stream = self.rec.open_stream(self._url, "process")
            if what == "grow":
                self.stream.rebuild()

    def close(self) -> None:
        self.stream.close()


class LocalServer:
    """One server in this process, with a real socket, for one stream after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._running = folder, ExitStack()
        self._stream: Stream | None = None

    def serve(self, stream: Stream) -> httpx.Client:
        """Serve this stream from now on, and close the one before."""
        if self._stream is None:
            self._server = self._running.enter_context(server_of(stream, self._folder))
        elif stream is not self._stream:
            change = self._server.server.service.replace(stream)
            asyncio.run_coroutine_threadsafe(change, self._server.loop).result(30).close()
        self._stream = stream
        return self._server.client

    def close(self) -> None:
        """End it, and close its stream."""
        self._running.close()


class OverHTTP:
    """What is the same for all servers."""

    client: httpx.Client

    def observe(self, events: Sequence[Event]) -> Counts:
        sent = [
            {"user": e.user, "item": e.item, "time": e.time, "event_id": e.event_id} for e in events
        ]
        counts = self._answer(self.client.post("/v1/events", json={"events": sent}))
        return counts["accepted"], counts["duplicates"], counts["unknown"]

    def forget(self, user: Id) -> bool:
        return self._answer(self.client.delete(_address(user)))["forgotten"]

    def ask(self, asked: Ask) -> Answer:
        body: dict[str, Any] = {"k": asked.k, "exclude_seen": asked.exclude_seen}
        if asked.exclude:
            body["exclude"] = asked.exclude
        if asked.among is not None:
            body["among"] = asked.among
        if asked.history is None:
            body["user"] = asked.user
        else:
            body["history"] = [{"item": item, "time": time} for item, time in asked.history]
        found = self._answer(self.client.post("/v1/recommendations", json=body))
        items = found["items"]
        assert [item["rank"] for item in items] == list(range(1, len(items) + 1))
        assert found["exhausted"] == (not items)
        return Answer(
            [item["item"] for item in items],
            [item["score"] for item in items],
            found["policy"] if items else "",
            found["unknown_events"],
        )

    def look(self, user: Id) -> Kept:
        answer = self.client.get(_address(user), params={"limit": 0})
        if answer.status_code == 404:
            return 0, 0, 0
        found = self._answer(answer)
        record = found["record"]
        if record is None or record["events"] < found["events"]:
            return found["events"], None, None
        return found["events"], record["skipped"], record["late"]

    def _answer(self, answer: httpx.Response) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()


class Served(OverHTTP):
    """The stream of another party behind a server."""

    def __init__(self, streamed: Streamed, server: LocalServer) -> None:
        self._streamed, self._server = streamed, server
        self.client = server.serve(streamed.stream)

    def simply(self, what: str) -> None:
        self._streamed.simply(what)
        self._server.serve(self._streamed.stream)

    def close(self) -> None: ...  # who is served next closes the stream


class Process(OverHTTP):
    """`longrec serve` as a process, which is killed; it is given another model by SIGHUP."""

    def __init__(self, rec: Recommender, url: str, folder: Path) -> None:
        self.rec, self._url, self._run = rec, url, folder / "run"
        rec.save(self._run)
        self._start()

    def _start(self) -> None:
        self._process = ServeProcess(self._run, self._url, "--durability", "process").__enter__()
        self.client = self._process.client

    def simply(self, what: str) -> None:
        if what == "grow":
            self.rec = grown(self.rec, NEW)
            self.rec.save(self._run)
            self._process.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 60
            while self._answer(self.client.get("/v1/model"))["items"] < self.rec.catalog.n_items:
                assert time.monotonic() < end, self._process.output
                time.sleep(0.01)
        elif what in ("restart", "kill"):
            if what == "restart":
                assert self._process.stop() == 0, self._process.output
            self.close()
            self._start()

    def close(self) -> None:
        self._process.__exit__()  # kills it where it runs


def _number(item: Id) -> int:
    """An item's id as catalogs have it; one that is no number is none of theirs, as 0 is."""
    return int(item) if str(item).isdigit() else 0


def _answer(found: pl.DataFrame) -> Answer:
    policy = found["policy"].unique().to_list()
    return Answer(found["item"].to_list(), found["score"].to_list(), "".join(policy))


def _address(user: Id) -> str:
    return f"/v1/users/{quote(str(user), safe='')}"


@dataclass(frozen=True)
class Place:
    """What a party may use: a folder of its own, an empty Redis ("": there is none), a server."""

    folder: Path
    redis: str
    server: LocalServer

    @property
    def lmdb(self) -> str:
        return f"lmdb://{self.folder}/users"


PARTIES: dict[str, Callable[[Recommender, Place], Party]] = {
    "lmdb": lambda rec, at: Streamed(rec, at.lmdb),
    "redis": lambda rec, at: Streamed(rec, at.redis),
    "http": lambda rec, at: Served(Streamed(rec, at.lmdb), at.server),
    "process": lambda rec, at: Process(rec, at.lmdb, at.folder),
    "process on redis": lambda rec, at: Process(rec, at.redis, at.folder),
}
