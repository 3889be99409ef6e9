"""What is measured: a stream's users, its model's step, and a model that reads everything again."""

from __future__ import annotations

import random
import threading
from array import array
from itertools import count, cycle, islice
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from longrec.bench.cells import Measured
from longrec.bench.users import END, Users
from longrec.models import Model, SequenceModel
from longrec.retrieval.exact import top_k
from longrec.serving.state.engine import Engine
from longrec.serving.stores.interface import Store
from longrec.serving.stream import Stream

K = 10


class Alone(Measured):
    """Pairs of one client: an event is observed, then items are recommended to its user.

    Attributes
    ----------
    observing, recommending : seconds of the two parts of each pair.
    """

    def __init__(self, stream: Stream, users: Users, durability: str, pairs: int) -> None:
        super().__init__(stream.recommender.name, users.length, durability)
        self.stream, self.users, self.pairs = stream, users, pairs
        self.observing, self.recommending = array("d"), array("d")
        self._rng, self._turn = random.Random(1), cycle(range(len(users)))

    def burst(self) -> None:
        for number in islice(self._turn, self.pairs):
            event = self.users.event(number, self._rng)
            with self.timed():
                began = perf_counter()
                self.stream.observe(*event)
                observed = perf_counter()
                self.stream.recommend(event[0], k=K)
                ended = perf_counter()
            self.observing.append(observed - began)
            self.recommending.append(ended - observed)

    def clear(self) -> None:
        super().clear()
        self.observing, self.recommending = array("d"), array("d")


class Together(Measured):
    """Pairs of several clients at once, each a thread with users of its own if there are enough."""

    def __init__(
        self, stream: Stream, users: Users, durability: str, clients: int, span: float
    ) -> None:
        super().__init__(stream.recommender.name, users.length, durability, clients)
        self.stream, self.users, self.span = stream, users, span
        many = len(users)
        self._of = [
            list(range(client, many, clients)) or [client % many] for client in range(clients)
        ]
        self._rngs = [random.Random(2 + client) for client in range(clients)]

    def burst(self) -> None:
        began = array("d")
        stop = threading.Event()
        start = threading.Barrier(self.clients + 1, lambda: began.append(perf_counter()))
        taken = [array("d") for _ in range(self.clients)]
        errors: list[BaseException] = []

        def client(own: int) -> None:
            try:
                start.wait()
                for number in cycle(self._of[own]):
                    event = self.users.event(number, self._rngs[own])
                    asked = perf_counter()
                    self.stream.observe(*event)
                    self.stream.recommend(event[0], k=K)
                    taken[own].append(perf_counter() - asked)
                    if stop.is_set():
                        return
            except threading.BrokenBarrierError:
                pass
            except BaseException as error:
                errors.append(error)
                stop.set()

        threads = [threading.Thread(target=client, args=(own,)) for own in range(self.clients)]
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
        self.wall += perf_counter() - began[0]
        for own in taken:
            self.seconds.extend(own)


class Reencoding(Measured):
    """Pairs without a stream: the last events are kept in memory, and all read for each of them.

    Nothing is stored, no id is looked up and no frame is made, which is all in its favour.
    """

    def __init__(self, model: SequenceModel, users: Users, pairs: int) -> None:
        window = model.max_length
        assert window is not None
        super().__init__(f"re-encode {window}", users.length)
        self.model, self.users, self.window, self.pairs = model, users, window, pairs
        self._tails = [torch.from_numpy(row[-window:].astype(np.int64)) for row in users.items]
        self._seen = np.zeros((len(users), model.n_items + 1), bool)
        for seen, items in zip(self._seen, users.items, strict=True):
            seen[items] = True
        self._rng, self._turn = random.Random(0), cycle(range(len(users)))

    @torch.inference_mode()
    def burst(self) -> None:
        for number in islice(self._turn, self.pairs):
            item = self.users.index(number, self._rng)
            with self.timed():
                tail = torch.cat([self._tails[number], torch.tensor([item])])[-self.window :]
                self._tails[number] = tail
                self._seen[number, item] = True
                best(self.model, self.model.encode(tail[None])[:, -1], self._seen[number])


class Step(Measured):
    """A model's step alone, for a number of users at once."""

    def __init__(
        self, name: str, engine: Engine, store: Store, users: Users, batch: int, calls: int
    ) -> None:
        super().__init__(f"{name} step", users.length, batch=batch)
        self.engine, self.users, self.calls = engine, users, calls
        kept = store.read(engine.digest, [(user.encode(), ()) for user in users.ids[:batch]])
        self._records = engine.load(list(islice(cycle([one.record for one in kept]), batch)))
        self._rng, self._clock = random.Random(3), count(END + 1)

    def burst(self) -> None:
        for _ in range(self.calls):
            time = next(self._clock)
            events = [
                [(self.users.index(number % len(self.users), self._rng), time)]
                for number in range(self.batch)
            ]
            with self.timed():
                self.engine.advance(self._records, events)


def best(model: Model, h: Tensor, seen: np.ndarray) -> None:
    """The exact best items for one user, those seen left out."""
    out = torch.from_numpy(np.flatnonzero(seen))
    top_k(model, h, K, torch.zeros(len(out), dtype=torch.int64), out)
