"""The measurement of serving as a whole: `longrec bench stream` and `longrec bench serve`."""

from __future__ import annotations

import random
import shutil
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from pathlib import Path

import numpy as np
import torch

from longrec.core.errors import UsageError
from longrec.core.machine import usable_cores
from longrec.data.histories import Histories
from longrec.models import SequenceModel
from longrec.recommender import Recommender
from longrec.retrieval.exact import ExactIndex
from longrec.retrieval.index import Index, TopK
from longrec.retrieval.index_cache import open_index
from longrec.retrieval.recall import recall
from longrec.serving.records.engine import Engine
from longrec.serving.stream.recommending import Ranker
from longrec.serving.stream.stream import Stream
from longrec_bench.analysis import REENCODING, serving_ratios
from longrec_bench.goals import serving_goals
from longrec_bench.measurement import Progress, Row, describe_start, interleaved
from longrec_bench.plan import PAIRS, SPANS, ServingPlan
from longrec_bench.serving.clients import Client, HttpClient, K, Server, StreamClient
from longrec_bench.serving.pairs import ClientPairs, ConcurrentPairs, Pairs, Reencoding
from longrec_bench.serving.users import Users, window_model, write_users
from longrec_bench.serving.workspace import DiskSync, Workspace, make_workspace, one_core

WINDOWS = (200, 2048)
"""Last events that are read again for each pair, by what streams are compared with."""


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
    store : URL of a Redis to use instead; None: files in the folder.
    progress : called with (done, of all, what is done now).

    Returns
    -------
    dict
        Plain values: "cells" (see `CatalogBench.rows`; durability is "none" where nothing is
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
    cores, found, syncs = usable_cores(), describe_start("lmdb", "redis", "polars"), array("d")
    cells, breakdown, method = list[Row](), list[Row](), _method(plan)
    facts = found["machine"]
    facts["cores_used"] = len(cores) if "http" in plan.transports else 1
    facts["torch_threads"] = torch.get_num_threads()
    with one_core() as core, make_workspace(folder, store) as workspace:
        facts["pinned"] = core is not None
        if core is None:
            facts["cores_used"] = facts["cores"]
        in_order = sorted(recommenders, key=_catalog)
        for (n_items, _), group in groupby(in_order, key=_catalog):

            def report(done: float, total: float, words: str, n_items: int = n_items) -> None:
                progress(done, total, f"{n_items:,} items: {words}")

            bench = CatalogBench(list(group), plan, workspace, cores, report)
            syncs.extend(bench.measure())
            cells += bench.rows()
            breakdown += [pairs.breakdown() for pairs in bench.middle]
            for system in bench.systems:
                name = f"{n_items:,} items, {system.recommender.name}"
                method.append(f"{name}: found with {system.index.name}.")
            shutil.rmtree(bench.folder)
        sync_ms = 1e3 * float(np.median(syncs)) if syncs else None
        facts |= workspace.describe() | {"sync_ms": sync_ms}
    return found | {
        "cells": cells,
        "ratios": serving_ratios(cells),
        "goals": serving_goals(cells),
        "breakdown": breakdown,
        "method": [*method, *(engine.statement for engine in engines)],
    }


def _catalog(recommender: Recommender) -> tuple[int, str]:
    return recommender.catalog.n_items, recommender.catalog_version


@dataclass(frozen=True)
class System:
    """A recommender, how its items are found, and all that is timed of it."""

    recommender: Recommender
    index: Index
    measurements: list[Pairs] = field(default_factory=list)


class CatalogBench:
    """The measurement of recommenders with one catalog; made, all their stores are filled.

    Parameters
    ----------
    cores : that servers may use.

    Attributes
    ----------
    systems : with all that is timed of them.
    middle : pairs of one client and the middle length of history, of all systems.
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
        self._cores, self._progress, self._stack = cores, progress, ExitStack()
        self.middle: list[ClientPairs] = []
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
        if recommender.folder is None and "http" in self.plan.transports:  # where servers read it
            recommender = replace(recommender)
            recommender.save(self.folder / f"{recommender.name}-run")
        on_disk, first, words = self.workspace.redis is None, "", f"{recommender.name}: filling"
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
        return System(recommender, open_index(recommender, "auto", self._progress).index)

    def _url(self, recommender: Recommender, transport: str, durability: str) -> str:
        return self.workspace.url(f"{self.n_items}/{recommender.name}-{transport}-{durability}")

    def measure(self) -> array[float]:
        """Sample everything in rounds, after one sample each that does not count.

        -> seconds of syncs of the stores' disk, taken meanwhile.
        """
        with self._stack:
            servers = [server for system in self.systems for server in self._add_systems(system)]
            self._add_reencoding(self.systems[0])
            for number, server in enumerate(servers):
                self._progress(number, len(servers), "starting servers")
                server.wait()
            timed = [one for system in self.systems for one in system.measurements]
            disk = self._stack.enter_context(DiskSync(self.folder))
            rounds, everything = self.plan.rounds, [*timed, disk]
            for one in everything:
                one.sample()
                one.clear()
            for number, one in interleaved(everything, rounds, random.Random(self.plan.seed)):
                self._progress(number, rounds, "measuring")
                span_begins = number * SPANS // rounds != (number - 1) * SPANS // rounds
                if span_begins or not isinstance(one, ConcurrentPairs):
                    one.sample()
        return disk.seconds if self.workspace.redis is None else array("d")

    def rows(self) -> list[Row]:
        """What was timed, each with recall@10 of its system's index against exact search.

        That is over all users as they stand in the end. The first keys are the condition:
        "system", "history", "catalog", "clients", "transport", "durability".
        """
        rows = []
        for system in self.systems:
            self._progress(0, 1, "measuring recall")
            first = self.plan.transports[0], self.plan.durabilities[0]
            url = self._url(system.recommender, *first)
            with system.recommender.open_stream(url, "process", index=system.index) as stream:
                share = {"recall_at_10": recall_of(stream, self.users)}
            rows += [one.row() | share for one in system.measurements]
        return rows

    def _add_systems(self, system: System) -> list[Server]:
        """All that is timed of a system; -> its servers, not ready yet: several start at once."""
        recommender, servers = system.recommender, list[Server]()
        for transport, durability in product(self.plan.transports, self.plan.durabilities):
            url = self._url(recommender, transport, durability)
            connect: Callable[[], Client]
            if transport == "python":
                stream = recommender.open_stream(url, durability, index=system.index)
                self._stack.enter_context(stream)

                def connect(stream: Stream = stream) -> Client:
                    return StreamClient(stream)
            else:
                assert recommender.folder is not None
                log = self.folder / f"{recommender.name}-{durability}.log"
                server = Server(recommender.folder, url, durability, log, self._cores)
                servers.append(self._stack.enter_context(server))

                def connect(server: Server = server) -> Client:
                    client = HttpClient(server)
                    self._stack.callback(client.close)
                    return client

            for n, users in product(self.plan.clients, self.users):
                condition = self._condition(recommender.name, users, n, transport, durability)
                if n == 1:
                    alone = ClientPairs(condition, users, connect())
                    system.measurements.append(alone)
                    if users is self.users[len(self.users) // 2]:
                        self.middle.append(alone)
                else:
                    clients, span = [connect() for _ in range(n)], self.plan.seconds / SPANS
                    several = ConcurrentPairs(condition, users, clients, span)
                    system.measurements.append(several)
        return servers

    def _add_reencoding(self, system: System) -> None:
        """Reading windows again, by models whose item vectors are a system's if it has some."""
        shorter = 0
        for window in WINDOWS:
            model = window_model(system.recommender, window)
            index: Index = ExactIndex(model)
            if isinstance(system.recommender.model, SequenceModel):
                index = system.index
            for users in self.users:
                if users.length > shorter:  # no window reads what a shorter one does
                    condition = self._condition(f"{REENCODING} {window}", users)
                    system.measurements.append(Reencoding(condition, users, model, index))
            shorter = window

    def _condition(
        self,
        system: str,
        users: Users,
        clients: int = 1,
        transport: str = "python",
        durability: str = "none",
    ) -> Row:
        return {
            **{"system": system, "history": users.length, "catalog": self.n_items},
            **{"clients": clients, "transport": transport, "durability": durability},
        }


def recall_of(stream: Stream, groups: Sequence[Users]) -> float:
    """Share of the exact ten best items that a stream's index finds, over all users as they stand.

    Items that they have seen are excluded in both, as a recommendation excludes them.
    """
    everything = ExactIndex(stream.artifact.model)
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
    http = [
        "http: two requests per pair, POST /v1/events and POST /v1/recommendations, to longrec "
        "serve in a process of its own, which has all cores; clients are threads of this process, "
        "which has one of them, each with a socket that stays open.",
    ]
    lengths = ", ".join(f"{length:,}" for length in sorted(plan.histories))
    return [
        "A pair is an event of a user, then ten items for that user without seen items.",
        "python: observe and recommend of a stream in this process.",
        *(http if "http" in plan.transports else []),
        f"Users: up to 256 of {lengths} events; each has events on a half of the items. Histories "
        "came in by rebuild. A Redis server is another process, on cores of its own.",
        f"{plan.rounds:,} rounds over each catalog, each cell in its turn, in an order drawn anew; "
        f"seed {plan.seed}. One client: {PAIRS} pairs per turn. Several: {plan.seconds:g} seconds "
        "in all.",
        "re-encode N: SASRec of the same shape with fused attention reads the last N events for "
        "each pair, then searches the first system's index, whose item vectors it has, with the "
        "same items excluded. Its histories are tensors in memory: no store, ids, frames or HTTP.",
        "recall_at_10: of a system's index against exact search, for all users as they stand "
        "at the end, seen items excluded. Without a RUN the vectors are random and lie in "
        "clusters, so that it tells little of trained ones.",
    ]
