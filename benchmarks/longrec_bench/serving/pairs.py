"""What is timed: pairs of one client and of several, a model's step, reading windows again."""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import count, cycle, islice
from time import perf_counter

import numpy as np
import polars as pl
import torch

from longrec.models import SequenceModel
from longrec.models.transitions import TransitionsScore, TransitionsScoreConfig
from longrec.retrieval.index import Index, as_bits
from longrec.serving.stream.fresh_counts import Pace, Stopped
from longrec.serving.stream.log_counts import LogCounts, count_log
from longrec.serving.stream.stream import Stream
from longrec_bench.measurement import Measurement, Row
from longrec_bench.plan import PAIRS, SLOW_PAIRS
from longrec_bench.serving.clients import Client, K, StreamClient
from longrec_bench.serving.users import END, Users

STAGES = ("parse", "queue", "log", "rank", "reply")
"""Of a request, as the server's metrics name them."""
ROUTES = ("/v1/events", "/v1/recommendations")


def median_ms(seconds: Sequence[float]) -> float:
    """Their median in milliseconds."""
    return 1e3 * float(np.median(seconds))


class Pairs(Measurement):
    """Pairs of an event and a recommendation of its user, of one client after the other.

    Parameters
    ----------
    users : who ask, one after the other.
    """

    batch = 1
    """Pairs, or events, per call."""

    def __init__(self, condition: Row, users: Users) -> None:
        super().__init__(condition)
        self.users, self._rng, self._order = users, random.Random(1), cycle(range(len(users)))

    def wall(self) -> float:
        """Seconds that all pairs took together; where several threads ask, less than the sum."""
        return sum(self.seconds)

    def row(self) -> Row:
        """The condition, percentiles of a pair as its client sees it, and pairs of all clients.

        Of a model's step both are of an event.
        """
        p50, p95, p99 = 1e3 * np.percentile(self.seconds, (50, 95, 99)) / self.batch
        times = {"p50_ms": float(p50), "p95_ms": float(p95), "p99_ms": float(p99)}
        n_pairs = len(self.seconds) * self.batch
        return self.condition | times | {"pairs_per_second": n_pairs / self.wall()}


class ClientPairs(Pairs):
    """Pairs of one client; noted are also the parts of a pair and the stages of a server."""

    def __init__(self, condition: Row, users: Users, client: Client) -> None:
        super().__init__(condition, users)
        self.client = client

    def clear(self) -> None:
        super().clear()
        self._observe, self._recommend, self._processor = array("d"), array("d"), 0.0
        self._spent: defaultdict[str, float] = defaultdict(float)

    def sample(self) -> None:
        before, processor = self.client.connect(), time.process_time()
        for number in islice(self._order, PAIRS):
            event = self.users.event(number, self._rng)
            began = perf_counter()
            self.client.observe(*event)
            observed = perf_counter()
            self.client.recommend(event[0])
            ended = perf_counter()
            self._observe.append(observed - began)
            self._recommend.append(ended - observed)
            self.seconds.append(ended - began)
        self._processor += time.process_time() - processor
        for name, value in self.client.metrics().items():
            self._spent[name] += value - before.get(name, 0.0)

    def breakdown(self) -> Row:
        """Where the time of a pair goes, in milliseconds.

        Of a stream, medians of its two calls. Of a server, means of the stages of both requests:
        "server, rest" is what the stages leave of the server's own time, "sockets and client" what
        that leaves of the pair; "client's processor" is a part of the latter.
        """
        if not self._spent:
            parts = {"observe": self._observe, "recommend": self._recommend}
            medians = {name: median_ms(times) for name, times in parts.items()}
            return {**self.condition, "of": "medians", "ms": medians}
        stages = {name: f'longrec_stage_seconds_sum{{stage="{name}"}}' for name in STAGES}
        routes = [f'longrec_request_seconds_sum{{route="{route}"}}' for route in ROUTES]
        per_pair = 1e3 / len(self.seconds)
        ms = {name: per_pair * self._spent[metric] for name, metric in stages.items()}
        server, pair = per_pair * sum(self._spent[one] for one in routes), per_pair * self.wall()
        ms |= {
            "server, rest": server - sum(ms.values()),
            "sockets and client": pair - server,
            "pair": pair,
            "client's processor": per_pair * self._processor,
        }
        return {**self.condition, "of": "means", "ms": ms}


class ConcurrentPairs(Pairs):
    """Pairs of several clients at once, each a thread with users of its own if there are enough.

    Parameters
    ----------
    span : seconds of a sample.
    """

    def __init__(
        self, condition: Row, users: Users, clients: Sequence[Client], span: float
    ) -> None:
        super().__init__(condition, users)
        self.clients, self.span = clients, span
        self._rngs = [random.Random(2 + number) for number in range(len(clients))]

    def wall(self) -> float:
        return self._wall

    def clear(self) -> None:
        super().clear()
        self._wall = 0.0

    def sample(self) -> None:
        for client in self.clients:
            client.connect()
        n = len(self.clients)
        start, stop = threading.Barrier(n + 1), threading.Event()
        with ThreadPoolExecutor(n) as pool:
            try:
                asking = [pool.submit(self._ask, number, start, stop) for number in range(n)]
                start.wait()
                began = perf_counter()
                wait(asking, self.span, FIRST_EXCEPTION)
            except BaseException:  # interrupted, perhaps before all were there
                start.abort()
                raise
            finally:
                stop.set()
        self._wall += perf_counter() - began
        for one in asking:
            self.seconds.extend(one.result())

    def _ask(self, number: int, start: threading.Barrier, stop: threading.Event) -> array[float]:
        """Pairs of one of the clients, at least one; -> the seconds of each."""
        client, rng, seconds = self.clients[number], self._rngs[number], array("d")
        own = range(number, len(self.users), len(self.clients)) or [number % len(self.users)]
        start.wait()
        for user in cycle(own):
            event = self.users.event(user, rng)
            began = perf_counter()
            client.observe(*event)
            client.recommend(event[0])
            seconds.append(perf_counter() - began)
            if stop.is_set():
                break
        return seconds


class Steps(Pairs):
    """A model's step alone, on records in memory, of as many users at once as "batch" says."""

    def __init__(self, condition: Row, users: Users, stream: Stream) -> None:
        super().__init__(condition, users)
        self.batch, self.engine = condition["batch"], stream.engine
        keys = [(user.encode(), ()) for user in islice(cycle(users.ids), self.batch)]
        stored = stream.store.read(self.engine.digest, keys)
        self._records = self.engine.layout.load([one.record for one in stored])
        self._times = count(END + 1)

    def sample(self) -> None:
        for when in islice(self._times, PAIRS):
            numbers = islice(self._order, self.batch)
            events = [[(self.users.index(number, self._rng), when)] for number in numbers]
            with self.timed():
                self.engine.advance(self._records, events)


class CountedPairs(ClientPairs):
    """Pairs of a stream whose log is counted meanwhile, as `FreshCounts` does: at its worst, anew
    from the beginning and without a rest between two passes."""

    def __init__(self, condition: Row, users: Users, stream: Stream) -> None:
        super().__init__(condition, users, StreamClient(stream))
        self._stream, self._nothing = stream, nothing_counted(stream)

    def sample(self) -> None:
        stop = threading.Event()
        counting = threading.Thread(target=self._count, args=(stop,))
        counting.start()
        try:
            super().sample()
        finally:
            stop.set()
            counting.join()

    def _count(self, stop: threading.Event) -> None:
        with suppress(Stopped):
            while not stop.is_set():
                count_log(self._stream.store, self._stream.items, self._nothing, Pace(stop))


class Counting(Pairs):
    """What counting takes, per event: a pass over all users that finds "batch" new events."""

    def __init__(self, condition: Row, users: Users, stream: Stream) -> None:
        super().__init__(condition, users)
        self.batch, self._stream = condition["batch"], stream
        self._counted = nothing_counted(stream)

    def sample(self) -> None:
        self._count()  # what others observed
        events = [self.users.event(n, self._rng) for n in islice(self._order, self.batch)]
        frame = pl.DataFrame(events, schema=["user", "item", "time"], orient="row")
        self._stream.observe_many(frame)
        with self.timed():
            self._count()

    def _count(self) -> None:
        stream = self._stream
        self._counted = count_log(stream.store, stream.items, self._counted, lambda: None)


def nothing_counted(stream: Stream) -> LogCounts:
    """Counts with the settings that transitions have by default."""
    return LogCounts.none(TransitionsScore(TransitionsScoreConfig(), stream.index.n_items))


class Reencoding(Pairs):
    """Pairs without a stream: the last events are in memory, and all read again for each of them.

    Nothing is stored, no id is looked up and no frame is made, which is all in its favour.
    """

    def __init__(self, condition: Row, users: Users, model: SequenceModel, index: Index) -> None:
        super().__init__(condition, users)
        assert model.max_length is not None
        self.model, self.index, self.window = model, index, model.max_length
        recent = [row[-self.window :].astype(np.int64) for row in users.items]
        self._recent = [torch.from_numpy(row) for row in recent]
        self._seen = np.stack([as_bits(row, model.n_items) for row in users.items])

    @torch.inference_mode()
    def sample(self) -> None:
        for number in islice(self._order, SLOW_PAIRS):
            item = self.users.index(number, self._rng)
            with self.timed():
                recent = torch.cat([self._recent[number], torch.tensor([item])])[-self.window :]
                self._recent[number] = recent
                self._seen[number, item >> 3] |= 1 << (item & 7)
                h = self.model.encode(recent[None])[:, -1]
                self.index.search(h, K, self._seen[number : number + 1])
