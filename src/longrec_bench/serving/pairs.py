"""What is timed: pairs of one client and of several, a model's step, and reading windows again."""

from __future__ import annotations

import random
import threading
from array import array
from collections.abc import Sequence
from itertools import count, cycle, islice
from time import perf_counter

import numpy as np
import torch

from longrec.models import SequenceModel
from longrec.retrieval.index import Index, as_bits
from longrec.serving.records.engine import Engine
from longrec.serving.stores.protocol import Store
from longrec_bench.measurement import Measurement, Row
from longrec_bench.serving.clients import Client, K
from longrec_bench.serving.plan import PAIRS, SLOW_PAIRS
from longrec_bench.serving.users import END, Users


class Calls(Measurement):
    """Calls of one kind, each of a pair of an event and a recommendation unless said otherwise.

    Parameters
    ----------
    users : who asks, one after the other.
    seed : of their events.
    """

    batch = 1
    """Pairs or events per call."""

    def __init__(self, condition: Row, users: Users, seed: int) -> None:
        super().__init__(condition)
        self.users = users
        self._rng, self._order = random.Random(seed), cycle(range(len(users)))

    def wall(self) -> float:
        """Seconds that all calls took together; where several threads call, less than the sum."""
        return sum(self.seconds)

    def row(self) -> Row:
        """The condition, percentiles of a pair as its client sees it, and pairs of all clients.

        Of a model's step both are of an event.
        """
        p50, p95, p99 = 1e3 * np.percentile(self.seconds, (50, 95, 99)) / self.batch
        return self.condition | {
            "p50_ms": float(p50),
            "p95_ms": float(p95),
            "p99_ms": float(p99),
            "pairs_per_second": len(self.seconds) * self.batch / self.wall(),
        }


class Pairs(Calls):
    """Pairs of one client: an event is observed, then items are recommended to its user.

    Attributes
    ----------
    observing, recommending : seconds of the two parts of each pair.
    """

    def __init__(self, condition: Row, users: Users, client: Client) -> None:
        super().__init__(condition, users, seed=1)
        self.client = client

    def sample(self) -> None:
        self.client.connect()
        self.ask()

    def ask(self) -> None:
        """Some pairs, of a client that is connected."""
        for number in islice(self._order, PAIRS):
            event = self.users.event(number, self._rng)
            with self.timed():
                began = perf_counter()
                self.client.observe(*event)
                observed = perf_counter()
                self.client.recommend(event[0])
                ended = perf_counter()
            self.observing.append(observed - began)
            self.recommending.append(ended - observed)

    def clear(self) -> None:
        super().clear()
        self.observing, self.recommending = array("d"), array("d")


class ConcurrentPairs(Calls):
    """Pairs of several clients at once, each a thread with users of its own if there are enough.

    Parameters
    ----------
    span : seconds of a sample.
    """

    def __init__(
        self, condition: Row, users: Users, clients: Sequence[Client], span: float
    ) -> None:
        super().__init__(condition, users, seed=2)
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
        began, n = array("d"), len(self.clients)
        stop = threading.Event()
        start = threading.Barrier(n + 1, lambda: began.append(perf_counter()))
        seconds = [array("d") for _ in range(n)]
        errors: list[BaseException] = []

        def ask(number: int) -> None:
            try:
                start.wait()
                self._ask_until(stop, number, seconds[number])
            except threading.BrokenBarrierError:
                pass
            except BaseException as error:
                errors.append(error)
                stop.set()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(n)]
        try:
            for thread in threads:
                thread.start()
            start.wait()
            stop.wait(self.span)
        finally:
            stop.set()
            if not began:  # interrupted before all were there
                start.abort()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if errors:
            raise errors[0]
        self._wall += perf_counter() - began[0]
        for own in seconds:
            self.seconds.extend(own)

    def _ask_until(self, stop: threading.Event, number: int, seconds: array[float]) -> None:
        """Pairs of the client of a number, at least one."""
        client, rng = self.clients[number], self._rngs[number]
        own = range(number, len(self.users), len(self.clients)) or [number % len(self.users)]
        for user in cycle(own):
            event = self.users.event(user, rng)
            began = perf_counter()
            client.observe(*event)
            client.recommend(event[0])
            seconds.append(perf_counter() - began)
            if stop.is_set():
                return


class Steps(Calls):
    """A model's step alone, on records in memory, for a number of users at once."""

    def __init__(
        self, condition: Row, users: Users, engine: Engine, store: Store, batch: int
    ) -> None:
        super().__init__(condition, users, seed=3)
        self.engine, self.batch = engine, batch
        stored = store.read(engine.digest, [(user.encode(), ()) for user in users.ids[:batch]])
        self._records = engine.layout.load(
            list(islice(cycle([one.record for one in stored]), batch))
        )
        self._times = count(END + 1)

    def sample(self) -> None:
        for time in islice(self._times, PAIRS):
            users = islice(cycle(range(len(self.users))), self.batch)
            events = [[(self.users.index(number, self._rng), time)] for number in users]
            with self.timed():
                self.engine.advance(self._records, events)


class Reencoding(Calls):
    """Pairs without a stream: the last events are kept in memory, and all read for each of them.

    Nothing is stored, no id is looked up and no frame is made, which is all in its favour.
    """

    def __init__(self, condition: Row, users: Users, model: SequenceModel, index: Index) -> None:
        super().__init__(condition, users, seed=0)
        assert model.max_length is not None
        self.model, self.index, self.window = model, index, model.max_length
        self._recent = [
            torch.from_numpy(row[-self.window :].astype(np.int64)) for row in users.items
        ]
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
