"""What streaming costs on this machine: pairs of an event and a recommendation, on real stores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from longrec.artifact.provenance import command, commit
from longrec.core.errors import UsageError
from longrec.recommender import Recommender
from longrec.retrieval.exact import ExactIndex
from longrec.serving.records.engine import Engine
from longrec.serving.stores.protocol import open_store
from longrec_bench.cells import Cell, Measured, median_ms
from longrec_bench.clients import InProcess
from longrec_bench.filling import fill
from longrec_bench.machine import Disk, describe, one_core
from longrec_bench.parts import Parts
from longrec_bench.place import Place
from longrec_bench.plan import FEW, PAIRS, Plan
from longrec_bench.ratios import AGAIN, ratios
from longrec_bench.reencoding import WINDOWS, Reencoding, window_models
from longrec_bench.systems import Alone, Step, pairs
from longrec_bench.turns import Progress, take_turns
from longrec_bench.users import Users, write

BATCHES = (1, 256)


def bench_stream(
    recommenders: Sequence[Recommender],
    plan: Plan | None = None,
    folder: str | Path = ".",
    store: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure pairs of an event and a recommendation through streams of recommenders.

    Parameters
    ----------
    recommenders : of different names, with as many items each.
    plan : None: the default one.
    folder : where stores are made and removed again; what a sync costs depends on its disk.
    store : URL of a Redis, or of a folder that is empty or not there yet, to use instead.
    progress : called with (done, of all, what is done now).

    Returns
    -------
    dict
        Plain values: "cells" (see `Cell`; their first keys are system, history, durability, which
        is "none" where nothing is stored, clients, threads that ask at once, and batch), "ratios",
        "breakdown", "machine", "method", "command", "commit", "started".

    Raises
    ------
    UsageError
        When the call is wrong, a model cannot stream, or the store's folder is not empty.
    LongrecError
        When a store fails.
    """
    plan = plan or Plan()
    tell: Progress = progress or (lambda done, total, words: None)
    if not recommenders or len({one.name for one in recommenders}) < len(recommenders):
        raise UsageError("models needs different names, at least one")
    engines = [Engine(one) for one in recommenders]  # says so before anything is made
    with ExitStack() as stack:
        core = stack.enter_context(one_core())
        started = datetime.now(UTC).isoformat(timespec="seconds")
        machine = describe(core)
        place = stack.enter_context(Place(folder, store))
        catalog = recommenders[0].catalog
        users = [Users(length, catalog, plan.seed) for length in sorted(plan.histories)]
        histories = write(users, catalog, place.folder / "histories")
        again, steps = _again(recommenders[0], users), list[Measured]()
        alone, together, parts = list[Measured](), list[Measured](), list[Parts]()
        for recommender in recommenders:
            name = recommender.name
            urls = {place.url(name, durability): durability for durability in plan.durabilities}
            fill(recommender, urls, histories, place.on_disk, tell)
            for number, (url, durability) in enumerate(urls.items()):
                stream = stack.enter_context(recommender.open_stream(url, durability))
                ones, several = pairs(
                    partial(InProcess, stream),
                    users,
                    plan,
                    partial(_of, name, durability),
                    Alone,
                )
                alone += ones
                together += several
                if stream.engine.window is not None:
                    continue
                opened = open_store(url, durability)
                stack.callback(opened.close)
                if number == 0:
                    steps += [
                        Step(
                            *(stream.engine, opened, users[0]),
                            *(_of(f"{name} step", "none", users[0], batch=batch), batch, PAIRS),
                        )
                        for batch in BATCHES
                    ]
                if ones:
                    parts.append(Parts(stream, opened, ones[len(users) // 2]))
        measured = [*alone, *together, *steps, *again]
        disk = stack.enter_context(Disk(place.folder)) if place.on_disk else None
        take_turns(measured, [*parts, *([disk] if disk else [])], plan, tell)
        cells = [one.cell() for one in measured]
        machine |= place.describe() | {"sync_ms": median_ms(disk.seconds) if disk else None}
    return {
        "command": command(),
        "commit": commit(),
        "started": started,
        "cells": cells,
        "ratios": ratios(cells),
        "breakdown": [part.told() for part in parts],
        "machine": machine,
        "method": _method(recommenders, engines, plan, users, place.on_disk),
    }


def _of(system: str, durability: str, users: Users, clients: int = 1, batch: int = 1) -> Cell:
    """The first keys of a cell."""
    return {
        "system": system,
        "history": users.length,
        "durability": durability,
        "clients": clients,
        "batch": batch,
    }


def _again(recommender: Recommender, users: Sequence[Users]) -> list[Measured]:
    """Reading windows again, each of users who have as many events; those of short ones first."""
    found: list[Measured] = []
    for model, window in zip(window_models(recommender), WINDOWS, strict=True):
        some = next((some for some in users if some.length >= window), users[-1])
        of = _of(f"{AGAIN} {window}", "none", some)
        found.append(Reencoding(model, ExactIndex(model), some, of, FEW))
    return found


def _method(
    recommenders: Sequence[Recommender],
    engines: Sequence[Engine],
    plan: Plan,
    groups: Sequence[Users],
    on_disk: bool,
) -> list[str]:
    """How the figures came about, in plain words."""
    items = recommenders[0].catalog.n_items
    users = ", ".join(f"{len(some):,} of {some.length:,} events" for some in groups)
    return [
        "A pair is observe(user, item, time), then recommend(user, k=10) without seen items, over "
        f"{items:,} items.",
        f"Users: {users}; each has events on a half of the items. Histories came in by rebuild.",
        f"{plan.rounds:,} rounds, each cell in its turn, in an order drawn anew; seed {plan.seed}. "
        f"One client: {PAIRS} pairs per turn. Several: threads, for {plan.seconds:g} seconds in "
        "all.",
        "re-encode N: SASRec of the same shape with fused attention reads the last N events for "
        "each pair, then ranks exactly. Its histories are tensors in memory: no store, ids or "
        "frames.",
        "step: the model alone on records in memory; times are per event.",
        *([] if on_disk else ["The Redis server is another process, on cores of its own."]),
        *(engine.statement for engine in engines),
    ]
