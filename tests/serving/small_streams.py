"""Small streams of every model that streams, and what their scores are held against."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from models.small_models import N, make

from longrec.config.training import TrainConfig
from longrec.core.choices import Durability
from longrec.data.catalog import Catalog
from longrec.mixers import Context
from longrec.recommender import Recommender
from longrec.serving.records.engine import Engine
from longrec.serving.stores.open import open_store
from longrec.serving.stream.store_models import register
from longrec.serving.stream.stream import Stream

EXACT: dict[str, dict[str, Any]] = {
    "elastic": {},
    "hydrarec": {},
    "sasrec-rotary": {},
    "elastic with a memory bank": {"memory_slots": 64, "memory_topk": 4, "memory_every": 5},
    "elastic by time": {"forgetting": "time", "gaps": True},
}
WINDOWED = {"sasrec": {"max_length": 5}}
COUNTING = {"popularity": {}, "last-item": {}, "transitions": {"last": 3}}
CASES = EXACT | WINDOWED | COUNTING
"""One of each kind of state: tests/congruence goes through every registered model."""
FIRST, UNKNOWN = 100, 7
"""Item index i has the id FIRST + i - 1; no item has UNKNOWN."""

Pairs = Sequence[tuple[int, int]]
"""A history: (item id, time)."""


def recommender(case: str, kind: torch.dtype = torch.float32, **training: object) -> Recommender:
    """With random weights, the same ones whenever it is called."""
    name = case.split()[0]
    model = make(name, kind, **CASES.get(case, {}))
    ids = pl.Series("id", np.arange(FIRST, FIRST + N))
    counts = (np.arange(N, dtype=np.int64) * 7) % 11
    return Recommender(name, model, model.config, TrainConfig(**training), Catalog(ids, counts))


_engines: dict[tuple[object, ...], Engine] = {}


def quick_engine(rec: Recommender) -> Engine:
    """An engine that is made once for the same weights: that takes longer than most tests."""
    limit = rec.limit if rec.model.streaming == "windowed" else None
    key = (rec.state_digest, rec.catalog.n_items, limit)
    if key not in _engines:
        _engines[key] = Engine(rec)
    return _engines[key]


def small_stream(case: str, path: Path | str, durability: Durability = "process") -> Stream:
    """`open_stream` with an engine that is made once."""
    rec = recommender(case)
    store = open_store(str(path), durability)
    register(store, rec, False)
    return Stream(rec, quick_engine(rec), store)


def reference(case: str, history: Pairs) -> np.ndarray:
    """Scores (N,) by the parallel model in float64, of what it reads of a history."""
    rec = recommender(case, torch.float64)
    known = [(item - FIRST + 1, time) for item, time in history if item != UNKNOWN]
    if rec.limit is not None:
        known = known[-rec.limit :]
    items, times = torch.tensor(known).t()
    with torch.no_grad():
        h = rec.model.encode(items[None], Context(times=times.cummax(0).values[None]))[:, -1]
        return rec.model.score(h)[0, 1:].double().numpy()


def check_best(case: str, found: pl.DataFrame, history: Pairs, seen: bool = True) -> None:
    """Hold recommendations, not of seen items if `seen`, against the parallel model's."""
    known = {item for item, _ in history if item != UNKNOWN}
    if not known:
        assert set(found["policy"]) == {"cold"}
        return
    scores = reference(case, history)
    near = 1e-4 * scores.std()
    allowed = [i for i in range(N) if not (seen and i + FIRST in known)]
    assert set(found["policy"]) <= {"personal"}
    assert found["rank"].to_list() == list(range(1, len(found) + 1))
    mine = found["item"].to_numpy() - FIRST
    assert len(set(mine)) == len(mine) == min(len(allowed), 10)
    assert set(mine) <= set(allowed)
    assert np.abs(found["score"].to_numpy() - scores[mine]).max(initial=0) <= near + 1e-30
    best = np.sort(scores[allowed])[::-1][: len(mine)]
    assert np.abs(scores[mine] - best).max(initial=0) <= 2 * near + 1e-30


def frame_of(events: Iterable[Sequence[object]], *more: str) -> pl.DataFrame:
    """A frame of (user, item, time, …)."""
    return pl.DataFrame(list(events), schema=["user", "item", "time", *more], orient="row")


def grown(rec: Recommender, ids: Sequence[int]) -> Recommender:
    """The recommender with further items, its other settings as they were."""
    return replace(rec.with_items(ids), train_config=rec.train_config)


def in_threads(many: int, work: Callable[[int], Any]) -> list[Any]:
    """work(number) in so many threads at once; results or exceptions by number."""
    results: list[Any] = [None] * many
    barrier = threading.Barrier(many)

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = work(number)
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results
