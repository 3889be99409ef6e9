"""What is measured: pairs of one client and of several, and a model's step alone."""

from __future__ import annotations

import random
import threading
from array import array
from collections.abc import Callable, Sequence
from itertools import count, cycle, islice
from time import perf_counter
from typing import TypeVar

from longrec.serving.records.engine import Engine
from longrec.serving.stores.protocol import Store
from longrec_bench.cells import Cell, Measured
from longrec_bench.clients import Client
from longrec_bench.plan import PAIRS, SPANS, Plan
from longrec_bench.users import END, Users

A = TypeVar("A", bound="Alone")
C = TypeVar("C", bound=Client)


class Alone(Measured):
    """Pairs of one client: an event is observed, then items are recommended to its user.

    Attributes
    ----------
    observing, recommending : seconds of the two parts of each pair.
    """

    def __init__(self, client: Client, users: Users, of: Cell, pairs: int) -> None:
        super().__init__(of)
        self.client, self.users, self.pairs = client, users, pairs
        self.observing, self.recommending = array("d"), array("d")
        self._rng, self._turn = random.Random(1), cycle(range(len(users)))

    def burst(self) -> None:
        self.client.ready()
        self.ask()

    def ask(self) -> None:
        """Some pairs, of a client that is ready."""
        for number in islice(self._turn, self.pairs):
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


class Together(Measured):
    """Pairs of several clients at once, each a thread with users of its own if there are enough."""

    def __init__(self, clients: Sequence[Client], users: Users, of: Cell, span: float) -> None:
        super().__init__(of)
        self.clients, self.users, self.span = clients, users, span
        n, many = len(clients), len(users)
        self._of = [list(range(own, many, n)) or [own % many] for own in range(n)]
        self._rngs = [random.Random(2 + own) for own in range(n)]

    def burst(self) -> None:
        for client in self.clients:
            client.ready()
        n = len(self.clients)
        began = array("d")
        stop = threading.Event()
        start = threading.Barrier(n + 1, lambda: began.append(perf_counter()))
        taken = [array("d") for _ in range(n)]
        errors: list[BaseException] = []

        def ask(own: int) -> None:
            client = self.clients[own]
            try:
                start.wait()
                for number in cycle(self._of[own]):
                    event = self.users.event(number, self._rngs[own])
                    asked = perf_counter()
                    client.observe(*event)
                    client.recommend(event[0])
                    taken[own].append(perf_counter() - asked)
                    if stop.is_set():
                        return
            except threading.BrokenBarrierError:
                pass
            except BaseException as error:
                errors.append(error)
                stop.set()

        threads = [threading.Thread(target=ask, args=(own,)) for own in range(n)]
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


def pairs(
    connect: Callable[[], C],
    users: Sequence[Users],
    plan: Plan,
    of: Callable[[Users, int], Cell],
    kind: Callable[[C, Users, Cell, int], A],
) -> tuple[list[A], list[Together]]:
    """Cells of a plan's numbers of clients for each length of history: one client, and several.

    Parameters
    ----------
    connect : makes a client.
    of : the first keys of a cell, from its users and how many clients there are.
    kind : makes cells of one client, `Alone` or a kind of it.
    """
    alone = [kind(connect(), some, of(some, 1), PAIRS) for some in users if 1 in plan.clients]
    return alone, [
        Together([connect() for _ in range(n)], some, of(some, n), plan.seconds / SPANS)
        for n in plan.clients
        for some in users
        if n > 1
    ]


class Step(Measured):
    """A model's step alone, for a number of users at once."""

    def __init__(
        self, engine: Engine, store: Store, users: Users, of: Cell, batch: int, calls: int
    ) -> None:
        super().__init__(of, batch)
        self.engine, self.users, self.calls = engine, users, calls
        kept = store.read(engine.digest, [(user.encode(), ()) for user in users.ids[:batch]])
        self._records = engine.layout.load(list(islice(cycle([one.record for one in kept]), batch)))
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
