"""What streaming costs on this machine: pairs of an event and a recommendation, on real stores.

All cells are measured in turns, in an order drawn anew for each round, so that what else the
machine does meanwhile hits all of them alike.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longrec.bench.cells import Measured, median_ms
from longrec.bench.machine import Disk, describe, one_core
from longrec.bench.parts import Parts
from longrec.bench.place import Place
from longrec.bench.plan import Plan
from longrec.bench.ratios import ratios
from longrec.bench.systems import Alone, Reencoding, Step, Together
from longrec.bench.users import Users, write
from longrec.data.histories import Histories
from longrec.errors import UsageError
from longrec.models import MODELS, SequenceModel, build_model
from longrec.provenance import command, commit
from longrec.recommender import Recommender
from longrec.serving.state.engine import Engine
from longrec.serving.stores.interface import Durability, open_store
from longrec.serving.stream import Stream

WINDOWS = (200, 2048)
"""Last events that the models read again which streaming is held against."""
BATCHES = (1, 256)
PAIRS, FEW = 10, 2
"""Pairs per burst; of what reads a window again, which takes long."""
SPANS = 5
"""Parts into which the seconds of clients at once are divided."""

Progress = Callable[[float, float, str], None]


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
        Plain values: "cells" (see `Cell`), "ratios", "breakdown", "machine", "method", "command",
        "commit", "started".

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
        measured: list[Measured] = _windows(recommenders[0], users)
        parts: dict[tuple[str, str], tuple[Parts, Alone]] = {}
        for recommender, engine in zip(recommenders, engines, strict=True):
            streams = stack.enter_context(_streams(recommender, plan, place, histories, tell))
            for number, (durability, (url, stream)) in enumerate(streams.items()):
                alone = [Alone(stream, some, durability, PAIRS) for some in users]
                measured += alone if 1 in plan.clients else []
                measured += [
                    Together(stream, some, durability, clients, plan.seconds / SPANS)
                    for some in users
                    for clients in plan.clients
                    if clients > 1
                ]
                if engine.window is None:
                    opened = open_store(url, durability)
                    stack.callback(opened.close)
                    if number == 0:
                        measured += [
                            Step(recommender.name, engine, opened, users[0], batch, PAIRS)
                            for batch in BATCHES
                        ]
                    if 1 in plan.clients:
                        middle = len(users) // 2
                        part = Parts(stream, opened, engine, users[middle], PAIRS)
                        parts[recommender.name, durability] = part, alone[middle]
        disk = stack.enter_context(Disk(place.folder)) if place.on_disk else None
        others = [part for part, _ in parts.values()] + ([disk] if disk else [])
        _take_turns(measured, others, plan, tell)
        cells = [asdict(one.cell()) for one in sorted(measured, key=_place_in_table)]
        breakdown = [
            {
                "system": name,
                "history": alone.history,
                "durability": durability,
                "median_ms": part.medians(alone),
            }
            for (name, durability), (part, alone) in parts.items()
        ]
        machine |= place.describe() | {"sync_ms": median_ms(disk.seconds) if disk else None}
    return {
        "command": command(),
        "commit": commit(),
        "started": started,
        "cells": cells,
        "ratios": ratios(cells),
        "breakdown": breakdown,
        "machine": machine,
        "method": _method(recommenders, engines, plan, users, place.on_disk),
    }


@contextmanager
def _streams(
    recommender: Recommender, plan: Plan, place: Place, histories: Histories, tell: Progress
) -> Iterator[dict[Durability, tuple[str, Stream]]]:
    """Streams with the histories in their stores, by durability, each with its URL.

    They are filled as the product does it, by `rebuild`; of stores that are files one is, and the
    others are copies.
    """
    name = recommender.name

    def fill(url: str, durability: Durability) -> None:
        with recommender.open_stream(url, durability) as stream:
            stream.rebuild(
                histories, progress=lambda done, total: tell(done, total, f"{name}: filling")
            )

    urls = {durability: place.url(name, durability) for durability in plan.durabilities}
    if place.on_disk:
        first, *others = urls.values()
        fill(first, "process")
        for url in others:
            shutil.copytree(first, url, ignore=shutil.ignore_patterns("*-lock", ".lock"))
    else:
        for durability, url in urls.items():
            fill(url, durability)
    with ExitStack() as stack:
        yield {
            durability: (url, stack.enter_context(recommender.open_stream(url, durability)))
            for durability, url in urls.items()
        }


def _place_in_table(one: Measured) -> tuple[Any, ...]:
    """Streams first, then steps, then what reads again; alone before together."""
    kind = 1 if isinstance(one, Step) else 2 if isinstance(one, Reencoding) else 0
    return kind, one.system, one.clients, one.durability, one.history, one.batch


def _windows(recommender: Recommender, users: Sequence[Users]) -> list[Measured]:
    """SASRec of the same shape, reading its last events again; users come with short ones first."""
    config_class = MODELS["sasrec"].config_class
    given = recommender.model_config
    shape = {
        key: getattr(given, key)
        for key in ("dim", "layers", "heads", "ffn_dim")
        if hasattr(given, key)
    }
    if shape.get("dim", 0) % shape.get("heads", 2):
        shape["heads"] = 1
    found: list[Measured] = []
    for window in WINDOWS:
        long = [some for some in users if some.length >= window] or users[-1:]
        config = config_class(**shape, max_length=window)
        model = build_model("sasrec", config, recommender.catalog.n_items).eval()
        assert isinstance(model, SequenceModel)
        found.append(Reencoding(model, long[0], FEW))
    return found


def _take_turns(
    measured: Sequence[Measured], others: Sequence[Parts | Disk], plan: Plan, tell: Progress
) -> None:
    """Let everything have its bursts, in another order each round, after some that do not count."""
    often = [*(one for one in measured if not isinstance(one, Together)), *others]
    rarely = [one for one in measured if isinstance(one, Together)]
    rng = random.Random(plan.seed)
    turns: list[list[Any]] = [[*often, *rarely]]
    for number in range(plan.rounds):
        turn = list(often)
        if number * SPANS // plan.rounds != (number - 1) * SPANS // plan.rounds:
            turn += rarely
        rng.shuffle(turn)
        turns.append(turn)
    for number, turn in enumerate(turns):
        for one in turn:
            one.burst()
        if number == 0:
            for one in turn:
                one.clear()
        tell(number, plan.rounds, "measuring")


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
