"""What a served event and recommendation cost on this machine, by catalog, in process and by HTTP.

One catalog is measured after the other; within one all cells take turns, those of reading windows
of a history again included.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from longrec.artifact.provenance import command, commit
from longrec.core.errors import UsageError
from longrec.recommender import Recommender
from longrec.serving.records.engine import Engine
from longrec_bench.at_catalog import AtCatalog, Transport
from longrec_bench.cells import Cell, median_ms
from longrec_bench.goals import goals
from longrec_bench.machine import Disk, describe, one_core, usable_cores
from longrec_bench.place import Place
from longrec_bench.plan import PAIRS, Plan
from longrec_bench.ratios import ratios
from longrec_bench.turns import Progress
from longrec_bench.users import how_many


def bench_serve(
    recommenders: Sequence[Recommender],
    plan: Plan,
    transports: Sequence[Transport] = ("python", "http"),
    folder: str | Path = ".",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure pairs of an event and a recommendation as they are served.

    Parameters
    ----------
    recommenders : of different names or numbers of items.
    plan : what is measured, for each of them.
    transports : "python", calls of a stream in this process; "http", `longrec serve` in another.
    folder : where stores are made and removed again; what a sync costs depends on its disk.
    progress : called with (done, of all, what is done now).

    Returns
    -------
    dict
        Plain values: "cells" (see `Cell`; their first keys are system, history, catalog, clients,
        transport and durability, their last one recall_at_10, of the index that they search),
        "ratios", "goals", "breakdown", "machine", "method", "command", "commit", "started".

    Raises
    ------
    UsageError
        When the call is wrong, or a model cannot stream.
    LongrecError
        When a store or a server fails.
    """
    tell: Progress = progress or (lambda done, total, words: None)
    _check(recommenders, transports)
    # This says so before anything is made.
    engines = [Engine(one) for one in {one.name: one for one in recommenders}.values()]
    cores = usable_cores()
    with ExitStack() as stack:
        core = stack.enter_context(one_core())
        started = datetime.now(UTC).isoformat(timespec="seconds")
        machine = describe(core)
        if "http" in transports:
            machine["cores_used"] = len(cores) or machine["cores"]
        place = stack.enter_context(Place(folder))
        disk = stack.enter_context(Disk(place.folder))
        cells, breakdown, indexes = list[Cell](), list[dict[str, Any]](), list[str]()
        syncs = array("d")
        by_catalog = sorted(recommenders, key=_catalog)
        for _, own in groupby(by_catalog, key=_catalog):
            with Place(place.folder) as inner:
                bench = AtCatalog(list(own), plan, transports, inner, cores, tell)
                found = bench.measure(disk)
            cells += found.cells
            breakdown += found.breakdown
            indexes += found.words
            syncs += disk.seconds
        machine |= place.describe() | {"sync_ms": median_ms(syncs)}
    return {
        "command": command(),
        "commit": commit(),
        "started": started,
        "cells": cells,
        "ratios": ratios(cells),
        "goals": goals(cells),
        "breakdown": breakdown,
        "machine": machine,
        "method": [*_method(plan, transports), *indexes, *(e.statement for e in engines)],
    }


def _check(recommenders: Sequence[Recommender], transports: Sequence[str]) -> None:
    names = [(one.name, one.catalog.n_items) for one in recommenders]
    if not names or len(set(names)) < len(names):
        raise UsageError("models needs different names or catalogs, at least one")
    if not transports or len(set(transports)) < len(transports):
        raise UsageError(f"transports needs different values, at least one; it has {transports}")
    for transport in transports:
        if transport not in get_args(Transport):
            raise UsageError(f"transport is {transport!r}; choose 'python' or 'http'")


def _catalog(recommender: Recommender) -> tuple[int, str]:
    return recommender.catalog.n_items, recommender.catalog_version


def _method(plan: Plan, transports: Sequence[Transport]) -> list[str]:
    """How the figures came about, in plain words."""
    users = ", ".join(f"{how_many(length):,} of {length:,} events" for length in plan.histories)
    http = [
        "http: two requests per pair, POST /v1/events and POST /v1/recommendations, to longrec "
        "serve in a process of its own, which has all cores; clients are threads of this process, "
        "which has one of them, each with a socket that stays open.",
    ]
    return [
        "A pair is an event of a user, then ten items for that user without seen items.",
        "python: observe and recommend of a stream in this process.",
        *(http if "http" in transports else []),
        f"Users: {users}; each has events on a half of the items. Histories came in by rebuild.",
        f"{plan.rounds:,} rounds over each catalog, each cell in its turn, in an order drawn anew; "
        f"seed {plan.seed}. One client: {PAIRS} pairs per turn. Several: {plan.seconds:g} seconds "
        "in all.",
        "re-encode N: SASRec of the same shape with fused attention reads the last N events for "
        "each pair, then searches the first system's index, whose item vectors it has, with the "
        "same items barred. Its histories are tensors in memory: no store, ids, frames or HTTP.",
        "recall_at_10: of a system's index against exact search, for all users as they stand "
        "at the end, seen items barred. Without a RUN the vectors are random and lie in clusters, "
        "so that it tells little of trained ones.",
    ]
