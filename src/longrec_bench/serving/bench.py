"""The measurement of serving as a whole: `longrec bench stream` and `longrec bench serve`."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from longrec.artifact.provenance import command, commit
from longrec.core.errors import UsageError
from longrec.core.machine import load_average, machine, usable_cores, versions
from longrec.recommender import Recommender
from longrec.serving.records.engine import Engine
from longrec_bench.measurement import Progress, Row, median_ms
from longrec_bench.serving.analysis import goals, ratios
from longrec_bench.serving.catalog import CatalogBench
from longrec_bench.serving.machine import DiskSync, one_core
from longrec_bench.serving.pairs import Calls, ConcurrentPairs, Pairs, Reencoding, Steps
from longrec_bench.serving.plan import PAIRS, ServingPlan
from longrec_bench.serving.users import number_of_users
from longrec_bench.serving.workspace import Workspace


def bench_serving(
    recommenders: Sequence[Recommender],
    plan: ServingPlan,
    folder: str | Path = ".",
    store: str | None = None,
    *,
    as_served: bool,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure pairs of an event and a recommendation, through streams and over HTTP.

    One catalog is measured after the other; within one everything is sampled in interleaved
    rounds, reading windows of a history again included.

    Parameters
    ----------
    recommenders : of different names or numbers of items.
    plan : what is measured, for each of them.
    folder : where stores are made and removed again; what a sync costs depends on its disk.
    store : URL of a Redis, or of a folder that is empty or not there yet, to use instead.
    as_served : whether items are found as a server does, whose recall is measured, and figures are
        held against goals; else a model's step alone is measured too.
    progress : called with (done, of all, what is done now).

    Returns
    -------
    dict
        Plain values: "cells" (see `Calls.row`; their first keys are `catalog.SERVE_KEYS` or
        `STREAM_KEYS`; durability is "none" where nothing is stored; as served their last one is
        recall_at_10, of the index that they search), "ratios", "goals" (as served), "breakdown",
        "machine", "method", "command", "commit", "started".

    Raises
    ------
    UsageError
        When the call is wrong, a model cannot stream, or the store's folder is not empty.
    LongrecError
        When a store or a server fails.
    """
    names = [(one.name, one.catalog.n_items) for one in recommenders]
    if not names or len(set(names)) < len(names):
        raise UsageError("models needs different names or catalogs, at least one")
    # This says so before anything is made.
    engines = [Engine(one) for one in {one.name: one for one in recommenders}.values()]
    cores, cells, breakdown, indexes = usable_cores(), list[Row](), list[Row](), list[str]()
    syncs = array("d")
    with ExitStack() as stack:
        core = stack.enter_context(one_core())
        started = datetime.now(UTC).isoformat(timespec="seconds")
        here = machine()
        used = len(cores) if "http" in plan.transports else 1
        facts = {
            "processor": here["processor"],
            "cores": here["cores"],
            "cores_used": here["cores"] if core is None else used,
            "pinned": core is not None,
            "torch_threads": here["threads"],
            "load_before": load_average(),
            "versions": versions("lmdb", "redis", "polars"),
        }
        workspace = stack.enter_context(Workspace(folder, store))
        disks = [stack.enter_context(DiskSync(workspace.folder))] if workspace.on_disk else []
        for _, own in groupby(sorted(recommenders, key=_catalog), key=_catalog):
            same = list(own)
            items = f"{same[0].catalog.n_items:,} items"
            bench = CatalogBench(same, plan, workspace, as_served, cores, _named(items, progress))
            bench.measure(disks)
            breakdown += bench.breakdown()
            for disk in disks:
                syncs += disk.seconds
            if as_served:
                for system in bench.systems:
                    recall = {"recall_at_10": bench.recall(system)}
                    cells += [one.row() | recall for one in system.calls]
                    assert system.index is not None
                    name = f"{items}, {system.recommender.name}"
                    indexes.append(f"{name}: found with {system.index.name}.")
            else:
                calls = [one for system in bench.systems for one in system.calls]
                cells += [one.row() for one in sorted(calls, key=_kind)]
            shutil.rmtree(bench.folder)
        facts |= workspace.describe() | {"sync_ms": median_ms(syncs) if syncs else None}
    found: dict[str, Any] = {"command": command(), "commit": commit(), "started": started}
    found |= {"cells": cells, "ratios": ratios(cells)}
    if as_served:
        found["goals"] = goals(cells)
    method = _serve_method(plan) if as_served else _stream_method(plan, items, workspace.on_disk)
    statements = [engine.statement for engine in engines]
    return found | {
        "breakdown": breakdown,
        "machine": facts,
        "method": [*method, *indexes, *statements],
    }


def _catalog(recommender: Recommender) -> tuple[int, str]:
    return recommender.catalog.n_items, recommender.catalog_version


def _kind(calls: Calls) -> int:
    """The place of a row of streams among the others."""
    return (Pairs, ConcurrentPairs, Steps, Reencoding).index(type(calls))


def _named(items: str, progress: Progress | None) -> Progress:
    """Progress that says which catalog is measured."""
    report: Progress = progress or (lambda done, total, words: None)
    return lambda done, total, words: report(done, total, f"{items}: {words}")


def _users_of(plan: ServingPlan) -> str:
    """The users of a plan and how they came into stores, in words."""
    users = ", ".join(
        f"{number_of_users(length):,} of {length:,} events" for length in sorted(plan.histories)
    )
    return f"Users: {users}; each has events on a half of the items. Histories came in by rebuild."


def _stream_method(plan: ServingPlan, items: str, on_disk: bool) -> list[str]:
    """How the figures came about, in plain words."""
    return [
        "A pair is observe(user, item, time), then recommend(user, k=10) without seen items, over "
        f"{items}.",
        _users_of(plan),
        f"{plan.rounds:,} rounds, each cell in its turn, in an order drawn anew; seed {plan.seed}. "
        f"One client: {PAIRS} pairs per turn. Several: threads, for {plan.seconds:g} seconds in "
        "all.",
        "re-encode N: SASRec of the same shape with fused attention reads the last N events for "
        "each pair, then ranks exactly. Its histories are tensors in memory: no store, ids or "
        "frames.",
        "step: the model alone on records in memory; times are per event.",
        *([] if on_disk else ["The Redis server is another process, on cores of its own."]),
    ]


def _serve_method(plan: ServingPlan) -> list[str]:
    """How the figures came about, in plain words."""
    http = [
        "http: two requests per pair, POST /v1/events and POST /v1/recommendations, to longrec "
        "serve in a process of its own, which has all cores; clients are threads of this process, "
        "which has one of them, each with a socket that stays open.",
    ]
    return [
        "A pair is an event of a user, then ten items for that user without seen items.",
        "python: observe and recommend of a stream in this process.",
        *(http if "http" in plan.transports else []),
        _users_of(plan),
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
