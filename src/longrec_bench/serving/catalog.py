"""All that is measured over one catalog: stores are filled, then everything is sampled."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import TypeVar

import torch

from longrec.core.choices import Durability
from longrec.data.histories import Histories
from longrec.models import SequenceModel
from longrec.recommender import Recommender
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.index import Index, TopK
from longrec.retrieval.index_cache import open_index
from longrec.retrieval.recall import recall
from longrec.serving.stores.open import open_store
from longrec.serving.stream.recommending import Ranker
from longrec.serving.stream.stream import Stream
from longrec_bench.measurement import Measurement, Progress, Row, interleaved
from longrec_bench.serving.analysis import REENCODING
from longrec_bench.serving.breakdown import HttpPairs, StreamParts
from longrec_bench.serving.clients import Client, HttpClient, K, StreamClient
from longrec_bench.serving.pairs import Calls, ConcurrentPairs, Pairs, Reencoding, Steps
from longrec_bench.serving.plan import SPANS, ServingPlan, Transport
from longrec_bench.serving.recommenders import WINDOWS, window_models
from longrec_bench.serving.server import Server
from longrec_bench.serving.users import Users, write_users
from longrec_bench.serving.workspace import Workspace

P = TypeVar("P", bound=Pairs)
C = TypeVar("C", bound=Client)

STREAM_KEYS = ("system", "history", "durability", "clients", "batch")
SERVE_KEYS = ("system", "history", "catalog", "clients", "transport", "durability")
"""First keys of a row: what was measured, under which condition."""
STEP_BATCHES = (1, 256)
"""Users of whom a model's step alone is measured at once."""


@dataclass(frozen=True)
class System:
    """A recommender, what finds its items (None: a stream by itself, exactly), and its calls."""

    recommender: Recommender
    index: Index | None
    calls: list[Calls] = field(default_factory=list)


class CatalogBench:
    """The measurement of recommenders with one catalog; made, all their stores are filled.

    Parameters
    ----------
    as_served : whether items are found as a server does, by an index whose recall is measured, and
        windows are read again for all lengths of history; else a model's step alone is measured.
    cores : that servers may use.

    Attributes
    ----------
    systems : with all that is timed of them.
    folder : where all files are.
    """

    def __init__(
        self,
        recommenders: Sequence[Recommender],
        plan: ServingPlan,
        workspace: Workspace,
        as_served: bool,
        cores: set[int],
        progress: Progress,
    ) -> None:
        self.plan, self.workspace, self.as_served = plan, workspace, as_served
        self._cores, self._progress, self._stack = cores, progress, ExitStack()
        self._parts, self._http_pairs = list[StreamParts](), list[HttpPairs]()
        catalog = recommenders[0].catalog
        self.n_items = catalog.n_items
        self.folder = workspace.folder / str(catalog.n_items)
        self.folder.mkdir()
        self.users = [Users(length, catalog, plan.seed) for length in sorted(plan.histories)]
        histories = write_users(self.users, catalog, self.folder / "histories")
        self.systems = [self._prepare(recommender, histories) for recommender in recommenders]

    def _prepare(self, recommender: Recommender, histories: Histories) -> System:
        """Find or make what a recommender needs, and fill its stores by rebuilding them.

        Of stores that are files one is filled, and the others are copies of it.
        """
        index = None
        if self.as_served:
            if recommender.folder is None:  # servers read it from there
                recommender = replace(recommender)
                recommender.save(self.folder / f"{recommender.name}-run")
            index = open_index(recommender, "auto", self._progress).index
        on_disk, first, words = self.workspace.on_disk, "", f"{recommender.name}: filling"
        for transport, durability in product(self.plan.transports, self.plan.durabilities):
            url = self._url(recommender, transport, durability)
            if on_disk and first:
                shutil.copytree(first, url, ignore=shutil.ignore_patterns("*-lock", ".lock"))
                continue
            first = url
            with recommender.open_stream(url, "process" if on_disk else durability) as stream:
                stream.rebuild(
                    histories, progress=lambda done, total: self._progress(done, total, words)
                )
        return System(recommender, index)

    def _url(self, recommender: Recommender, transport: Transport, durability: Durability) -> str:
        name = f"{recommender.name}-{transport}-{durability}"
        return self.workspace.url(f"{self.n_items}/{name}")

    def measure(self, also: Sequence[Measurement]) -> None:
        """Sample everything in rounds, `also` too, after one sample each that does not count."""
        with self._stack:
            servers = [server for system in self.systems for server in self._add_calls(system)]
            self._add_reencoding(self.systems[0])
            for number, server in enumerate(servers):
                self._progress(number, len(servers), "starting servers")
                server.wait()
            calls = [one for system in self.systems for one in system.calls]
            measurements, rounds = [*calls, *self._parts, *also], self.plan.rounds
            for one in measurements:
                one.sample()
                one.clear()
            for number, one in interleaved(measurements, rounds, random.Random(self.plan.seed)):
                self._progress(number, rounds, "measuring")
                span_begins = number * SPANS // rounds != (number - 1) * SPANS // rounds
                if span_begins or not isinstance(one, ConcurrentPairs):
                    one.sample()

    def breakdown(self) -> list[Row]:
        """Where the time of a pair goes, of one client and the middle length of history."""
        return [
            *(parts.row() for parts in self._parts),
            *(pairs.breakdown() for pairs in self._http_pairs),
        ]

    def recall(self, system: System) -> float:
        """recall@10 of a system's index against exact search, over all users as they stand."""
        self._progress(0, 1, "measuring recall")
        url = self._url(system.recommender, self.plan.transports[0], self.plan.durabilities[0])
        with system.recommender.open_stream(url, "process", index=system.index) as stream:
            return recall_of(stream, self.users)

    def _add_calls(self, system: System) -> list[Server]:
        """All that is timed of a system; -> its servers, not ready yet: several start at once."""
        recommender, servers = system.recommender, list[Server]()
        for transport, durability in product(self.plan.transports, self.plan.durabilities):
            condition = partial(self._condition, recommender.name, transport, durability)
            if transport == "python":
                self._add_stream(system, condition, durability)
                continue
            assert recommender.folder is not None
            url = self._url(recommender, transport, durability)
            log = self.folder / f"{recommender.name}-{durability}.log"
            server = Server(recommender.folder, url, durability, log, self._cores)
            servers.append(self._stack.enter_context(server))
            pairs = self._add_pairs(system, condition, HttpPairs, partial(self._connect, server))
            self._http_pairs += _middle(pairs)
        return servers

    def _connect(self, server: Server) -> HttpClient:
        client = HttpClient(server)
        self._stack.callback(client.close)
        return client

    def _add_stream(
        self, system: System, condition: Callable[..., Row], durability: Durability
    ) -> None:
        """Pairs of a stream and, where it streams exactly, their parts and its model's step."""
        recommender, plan = system.recommender, self.plan
        url = self._url(recommender, "python", durability)
        stream = recommender.open_stream(url, durability, index=system.index)
        self._stack.enter_context(stream)
        pairs = self._add_pairs(system, condition, Pairs, partial(StreamClient, stream))
        if stream.engine.window is not None:
            return
        store = open_store(url, durability)
        self._stack.callback(store.close)
        self._parts += [StreamParts(stream, store, one) for one in _middle(pairs)]
        if not self.as_served and durability == plan.durabilities[0]:
            name, users = f"{recommender.name} step", self.users[0]
            for batch in STEP_BATCHES:
                row = self._condition(name, "python", "none", users, batch=batch)
                system.calls.append(Steps(row, users, stream.engine, store, batch))

    def _add_pairs(
        self,
        system: System,
        condition: Callable[..., Row],
        kind: Callable[[Row, Users, C], P],
        connect: Callable[[], C],
    ) -> list[P]:
        """Pairs of one client for each length of history, which are returned, and of several."""
        one_client = self.users if 1 in self.plan.clients else []
        alone = [kind(condition(users), users, connect()) for users in one_client]
        system.calls.extend(alone)
        span = self.plan.seconds / SPANS
        for n, users in product(self.plan.clients, self.users):
            if n > 1:
                clients = [connect() for _ in range(n)]
                system.calls.append(ConcurrentPairs(condition(users, n), users, clients, span))
        return alone

    def _add_reencoding(self, system: System) -> None:
        """Reading windows again, by models whose item vectors are a system's if it has some."""
        shorter = 0
        for model, window in zip(window_models(system.recommender), WINDOWS, strict=True):
            index: Index = ExactIndex(model)
            if system.index is not None and isinstance(system.recommender.model, SequenceModel):
                index = system.index
            if self.as_served:  # no window reads what a shorter one does
                groups = [users for users in self.users if users.length > shorter]
            else:  # users who have as many events, or else those who have most
                enough = (users for users in self.users if users.length >= window)
                groups = [next(enough, self.users[-1])]
            for users in groups:
                row = self._condition(f"{REENCODING} {window}", "python", "none", users)
                system.calls.append(Reencoding(row, users, model, index))
            shorter = window

    def _condition(
        self,
        system: str,
        transport: str,
        durability: str,
        users: Users,
        clients: int = 1,
        batch: int = 1,
    ) -> Row:
        """The first keys of a row."""
        condition = {
            **{"system": system, "history": users.length, "catalog": self.n_items},
            **{"clients": clients, "transport": transport, "durability": durability},
            "batch": batch,
        }
        return {key: condition[key] for key in (SERVE_KEYS if self.as_served else STREAM_KEYS)}


def recall_of(stream: Stream, groups: Sequence[Users]) -> float:
    """Share of the exact ten best items that a stream's index finds, over all users as they stand.

    Items that they have seen are excluded in both, as a recommendation excludes them.
    """
    everything = ExactIndex(stream.artifact.model)
    exact = Ranker(stream.artifact, stream.store, stream.engine, stream.items, everything)
    users = [user for some in groups for user in some.ids]
    return recall(_best(stream.ranker, users), _best(exact, users))


def _best(ranker: Ranker, users: Sequence[str]) -> list[TopK]:
    """What a ranker gives to users who ask one by one."""
    answers = [ranker.recommend([ranker.request(user, K)]) for user in users]
    return [TopK(torch.from_numpy(one.scores), torch.from_numpy(one.items)) for one in answers]


def _middle(alone: list[P]) -> list[P]:
    """Of pairs of one client, those of the middle length of history; none if there are none."""
    return alone[len(alone) // 2 :][:1]
