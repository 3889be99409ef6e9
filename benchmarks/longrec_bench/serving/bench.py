"""The measurement of serving as a whole: `longrec bench stream` and `longrec bench serve`."""

from __future__ import annotations

import random
import shutil
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import groupby, product
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch

from longrec.core.errors import UsageError
from longrec.core.threads import usable_cores
from longrec.data.histories import Histories
from longrec.models import SequenceModel
from longrec.models.common.scorer import Scorer
from longrec.recommender import Recommender
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.index import Index, TopK
from longrec.retrieval.index_cache import open_index
from longrec.retrieval.recall import recall
from longrec.serving.records.engine import Engine
from longrec.serving.stream.recommending import Ranker
from longrec.serving.stream.stream import Stream
from longrec_bench.analysis import COUNTED, REENCODING, serving_ratios
from longrec_bench.goals import serving_goals
from longrec_bench.measurement import Progress, Row, describe_start, interleaved
from longrec_bench.plan import PAIRS, SPANS, ServingPlan
from longrec_bench.serving.clients import Client, K, Server, StreamClient
from longrec_bench.serving.pairs import (
    ClientPairs,
    ConcurrentPairs,
    CountedPairs,
    Counting,
    Pairs,
    Reencoding,
    Steps,
)
from longrec_bench.serving.parts import StreamParts
from longrec_bench.serving.users import MOST, Users, window_model, write_users
from longrec_bench.serving.workspace import DiskSync, Workspace, make_workspace, one_core

WINDOWS = (200, 2048)
"""Last events that are read again for each pair, by what streams are compared with."""
STEP_BATCHES = (1, 256)
"""Users of whom a model's step alone is measured at once."""
NEW_EVENTS = 256
"""Events that are new in the log when it is counted."""


def bench_serving(
    recommenders: Sequence[Recommender],
    plan: ServingPlan,
    folder: Path,
    store: str | None,
    progress: Progress,
) -> Row:
    """Measure pairs of an event and a recommendation, through streams and over HTTP.

    One catalog is measured after the other; within one everything is sampled in interleaved
    rounds, reading windows of a history again included.

    Parameters
    ----------
    recommenders : of different names or numbers of items.
    plan : what is measured, for each of them.
    folder : where stores are made and removed again; what a sync costs depends on its disk.
    store : URL of a Redis, or of a folder that is empty or not there yet, to use instead.
    progress : called with (done, of all, what is done now).

    Returns
    -------
    dict
        Plain values: "cells" (see `CatalogBench.measure`; durability is "none" where nothing is
        stored), "ratios", "goals", "breakdown", "machine", "method", "command", "commit",
        "started".

    Raises
    ------
    UsageError
        When the call is wrong, or a model cannot stream.
    LongrecError
        When a store or a server fails.
    """
    names = [(one.name, one.catalog.n_items) for one in recommenders]
    if not names or len(set(names)) < len(names):
        raise UsageError("models needs different names or catalogs, at least one")
    # This says so before anything is made.
    engines = [Engine(one) for one in {one.name: one for one in recommenders}.values()]
    cores, found = usable_cores(), describe_start("lmdb", "redis", "polars")
    cells, breakdown, indexes, syncs = list[Row](), list[Row](), list[str](), array("d")
    with one_core() as core, make_workspace(folder, store) as workspace:
        by_catalog = attrgetter("catalog.n_items", "catalog_version")
        for _, group in groupby(sorted(recommenders, key=by_catalog), key=by_catalog):
            bench = CatalogBench(list(group), plan, workspace, cores, progress)
            cells += bench.measure()
            breakdown += [pairs.breakdown() for pairs in bench.middle]
            syncs.extend(bench.sync_seconds)
            for name, index in bench.indexes.items():
                indexes.append(f"{bench.n_items:,} items, {name}: found with {index.name}.")
            shutil.rmtree(bench.folder)
        servers_use = len(cores) if plan.serves else 1
        found["machine"] |= workspace.describe() | {
            "cores_used": found["machine"]["cores"] if core is None else servers_use,
            "pinned": core is not None,
            "sync_ms": 1e3 * float(np.median(syncs)) if syncs else None,
        }
    return found | {
        "cells": cells,
        "ratios": serving_ratios(cells),
        "goals": serving_goals(cells),
        "breakdown": breakdown,
        "method": [*_method(plan), *indexes, *(engine.statement for engine in engines)],
    }


class CatalogBench:
    """The measurement of recommenders with one catalog; made, all their stores are filled.

    Parameters
    ----------
    cores : that servers may use.

    Attributes
    ----------
    indexes : how the items of each recommender are found, by its name.
    middle : pairs of one client and the middle length of history, of all recommenders; where a
        stream is exact, the parts of its pairs.
    sync_seconds : of syncs of the stores' disk, taken meanwhile.
    folder : where all files are.
    """

    def __init__(
        self,
        recommenders: Sequence[Recommender],
        plan: ServingPlan,
        workspace: Workspace,
        cores: set[int],
        progress: Progress,
    ) -> None:
        self.plan, self.workspace = plan, workspace
        self._cores, self._progress = cores, progress
        self.indexes: dict[str, Index] = {}
        self.middle: list[ClientPairs | StreamParts] = []
        self.sync_seconds = array("d")
        self._measurements: list[Pairs] = []
        catalog = recommenders[0].catalog
        self.n_items = catalog.n_items
        self.folder = workspace.folder / str(catalog.n_items)
        self.folder.mkdir()
        self.users = [Users(length, catalog, plan.seed) for length in sorted(plan.histories)]
        histories = write_users(self.users, catalog, self.folder / "histories")
        self._recommenders = [self._prepare(one, histories) for one in recommenders]

    def _prepare(self, recommender: Recommender, histories: Histories) -> Recommender:
        """Find or make what a recommender needs, and fill its stores by rebuilding them.

        Of stores that are files one is filled, and the others are copies of it.
        """
        name = recommender.name
        if recommender.folder is None and self.plan.serves:  # where servers read it
            recommender = replace(recommender)
            recommender.save(self.folder / f"{name}-run")

        def report(done: float, total: float, words: str = "filling") -> None:
            self._report(done, total, f"{name}: {words}")

        on_disk, first = self.workspace.on_disk, ""
        for transport, durability in product(self.plan.transports, self.plan.durabilities):
            url = self._url(name, transport, durability)
            if on_disk and first:
                shutil.copytree(first, url, ignore=shutil.ignore_patterns("*-lock", ".lock"))
                continue
            first = url
            with recommender.open_stream(url, "process" if on_disk else durability) as stream:
                stream.rebuild(histories, progress=report)
        self.indexes[name] = open_index(recommender, "auto", report).index
        return recommender

    def measure(self) -> list[Row]:
        """Sample everything in rounds, after one sample each that does not count.

        -> a row of each thing: the condition ("system", "history", "catalog", "clients",
        "transport", "durability", "batch"), its figures, and recall@10 of the index against exact
        search, over all users as they stand in the end; None of a model's step alone.
        """
        with ExitStack() as stack:
            servers = [one for each in self._recommenders for one in self._add_pairs(each, stack)]
            self._add_reencoding(self._recommenders[0])
            for number, server in enumerate(servers):
                self._report(number, len(servers), "starting servers")
                server.wait()
            disk = stack.enter_context(DiskSync(self.folder))
            parts = [one for one in self.middle if isinstance(one, StreamParts)]
            rounds, everything = self.plan.rounds, [*self._measurements, *parts, disk]
            for one in everything:
                one.sample()
                one.clear()
            for number, one in interleaved(everything, rounds, random.Random(self.plan.seed)):
                self._report(number, rounds, "measuring")
                span_begins = number * SPANS // rounds != (number - 1) * SPANS // rounds
                if span_begins or not isinstance(one, ConcurrentPairs):
                    one.sample()
            if self.workspace.on_disk:
                self.sync_seconds = disk.seconds
        recalls = {}
        for recommender in self._recommenders:
            self._report(0, 1, "measuring recall")
            name = recommender.name
            url = self._url(name, self.plan.transports[0], self.plan.durabilities[0])
            with recommender.open_stream(url, "process", index=self.indexes[name]) as stream:
                recalls[name] = recall_of(stream, self.users)
        first = self._recommenders[0].name  # whose index is searched where windows are read again
        rows = []
        for one in self._measurements:
            system = first if isinstance(one, Reencoding) else one.condition["system"]
            rows.append(one.row() | {"recall_at_10": recalls.get(system)})
        return rows

    def _add_pairs(self, recommender: Recommender, stack: ExitStack) -> list[Server]:
        """All that is timed of a recommender; -> its servers, still starting, several at once."""
        name, servers = recommender.name, list[Server]()
        for transport, durability in product(self.plan.transports, self.plan.durabilities):
            url = self._url(name, transport, durability)
            connect: Callable[[], Client]
            exact: Stream | None = None
            if transport == "python":
                stream = recommender.open_stream(url, durability, index=self.indexes[name])
                connect = partial(StreamClient, stack.enter_context(stream))
                exact = stream if stream.engine.window is None else None
            else:
                assert recommender.folder is not None
                log = self.folder / f"{name}-{transport}-{durability}.log"
                server = Server(
                    *(recommender.folder, url, durability, log, self._cores),
                    recommender.plugins,
                )
                servers.append(stack.enter_context(server))
                connect = partial(server.client, transport == "http-one")
            for n, users in product(self.plan.clients, self.users):
                condition = self._condition(name, users, n, transport, durability)
                clients = [connect() for _ in range(n)]
                if n > 1:
                    span = self.plan.seconds / SPANS
                    self._measurements.append(ConcurrentPairs(condition, users, clients, span))
                    continue
                pairs = ClientPairs(condition, users, clients[0])
                self._measurements.append(pairs)
                if users is self.users[len(self.users) // 2]:
                    self.middle.append(StreamParts(exact, pairs) if exact else pairs)
            if exact and durability == self.plan.durabilities[0]:
                users = self.users[0]
                for batch in STEP_BATCHES:
                    condition = self._condition(f"{name} step", users, batch=batch)
                    self._measurements.append(Steps(condition, users, exact))
                users = self.users[len(self.users) // 2]
                condition = self._condition(f"{name}{COUNTED}", users, 1, transport, durability)
                self._measurements.append(CountedPairs(condition, users, exact))
                condition = self._condition(f"{name} counting", users, batch=NEW_EVENTS)
                self._measurements.append(Counting(condition, users, exact))
        return servers

    def _add_reencoding(self, recommender: Recommender) -> None:
        """Reading windows again, by models that share a recommender's item vectors, if any."""
        shorter = 0
        for window in WINDOWS:
            model = window_model(recommender, window)
            has_vectors = isinstance(recommender.model, SequenceModel)
            index = self.indexes[recommender.name] if has_vectors else ExactIndex(Scorer(model))
            for users in self.users:
                if users.length > shorter:  # no window reads what a shorter one does
                    condition = self._condition(f"{REENCODING} {window}", users)
                    self._measurements.append(Reencoding(condition, users, model, index))
            shorter = window

    def _condition(
        self,
        system: str,
        users: Users,
        clients: int = 1,
        transport: str = "python",
        durability: str = "none",
        batch: int = 1,
    ) -> Row:
        return {
            **{"system": system, "history": users.length, "catalog": self.n_items},
            **{"clients": clients, "transport": transport, "durability": durability},
            "batch": batch,
        }

    def _url(self, name: str, transport: str, durability: str) -> str:
        return self.workspace.url(f"{self.n_items}/{name}-{transport}-{durability}")

    def _report(self, done: float, total: float, words: str) -> None:
        self._progress(done, total, f"{self.n_items:,} items: {words}")


def recall_of(stream: Stream, groups: Sequence[Users]) -> float:
    """Share of the exact ten best items that a stream's index finds, over all users as they stand.

    Items that they have seen are excluded in both, as a recommendation excludes them.
    """
    everything = ExactIndex(stream.served.scorer)
    exact = Ranker(stream.artifact, stream.store, stream.engine, stream.items, everything)
    found: list[list[TopK]] = []
    for ranker in (stream.ranker, exact):  # which users ask one by one
        requests = [ranker.request(user, K) for users in groups for user in users.ids]
        answers = [ranker.recommend([request]) for request in requests]
        found.append(
            [TopK(torch.from_numpy(one.scores), torch.from_numpy(one.items)) for one in answers]
        )
    return recall(*found)


def _method(plan: ServingPlan) -> list[str]:
    """How the figures came about, in plain words."""
    lengths = ", ".join(f"{length:,}" for length in sorted(plan.histories))
    transports = {
        "python": "python: observe and recommend of a stream in this process, which has one core; "
        "step: the model alone on records in memory, times per event. "
        f"X{COUNTED}: while a thread counts X's log from its beginning, over and over. X counting: "
        "what followed what, counted after so many new events by looking at all users, per event.",
        "http": "http: two requests per pair, POST /v1/events and POST /v1/recommendations, to "
        "longrec serve in a process of its own, which has all cores; clients are threads of this "
        "process, each with a socket that stays open.",
        "http-one": "http-one: the same with one request, an event that asks for ten items in its "
        "answer.",
    }
    return [
        "A pair is an event of a user, then ten items for that user without seen items.",
        *(transports[transport] for transport in plan.transports),
        f"Users: up to {MOST} of {lengths} events; each has events on a half of the items.",
        f"{plan.rounds:,} rounds over each catalog, in an order drawn anew; seed {plan.seed}. One "
        f"client: {PAIRS} pairs per round. Several: {plan.seconds:g} seconds in all.",
        "re-encode N: SASRec of the same shape with fused attention reads the last N events for "
        "each pair, then searches the first system's index. Its histories are tensors in memory: "
        "no store, ids, frames or HTTP.",
        "recall_at_10: against exact search, for all users as they stand at the end. Without a "
        "RUN the vectors are random and lie in clusters, so that it tells little of trained ones.",
    ]
