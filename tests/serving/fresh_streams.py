"""Streams that count what follows what, and what their counts are held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from models.small_models import N
from serving.small_streams import FIRST, quick_engine, recommender

from longrec.models.transitions import TransitionsScore
from longrec.recommender import Recommender
from longrec.serving.stores.log_reader import NO_MODEL, read_log, user_pages
from longrec.serving.stores.open import open_store
from longrec.serving.stores.protocol import Store
from longrec.serving.stream import fresh_counts
from longrec.serving.stream.fresh_counts import FreshCounts
from longrec.serving.stream.id_keys import ItemIndex
from longrec.serving.stream.store_models import register
from longrec.serving.stream.stream import Stream

TRAINED = [[1, 2, 3, 4], [3, 2, 1, 2]]
"""Items of the histories that training's counts are of."""
NEVER = 1e9
"""Seconds: a stream that counts by itself only when it is opened."""


@cache
def with_transitions(case: str = "popularity", last: int = 3, followers: int = 300) -> Recommender:
    rec = recommender(case)
    items, lengths = torch.tensor([*TRAINED[0], *TRAINED[1]]), torch.tensor([4, 4])
    settings = {"last": last, "decay": 0.7, "weight": 1.3, "followers": followers}
    added = TransitionsScore.of(items, lengths, N, **settings)
    return rec.with_added_score(added.eval())


def open_fresh(url: str, rec: Recommender, every: float = NEVER) -> Stream:
    """`open_stream` with an engine that is made once."""
    store = open_store(url, "power" if url.startswith("redis") else "process")
    register(store, rec, False)
    return Stream(rec, quick_engine(rec), store, fresh_counts=every)


def fresh(stream: Stream) -> FreshCounts:
    assert stream.fresh is not None
    return stream.fresh


def counted(stream: Stream) -> TransitionsScore:
    """What a stream has counted, up to now, as it would serve."""
    fresh(stream).refresh()
    assert fresh(stream)._counted is not None
    return fresh(stream)._counted.table.served()


def of_log(store: Store, rec: Recommender) -> TransitionsScore:
    """The same counted at once: the known items of each user, in the log's order."""
    items, rows = ItemIndex(rec.catalog), []
    for users in user_pages(store):
        for user, stored in zip(
            users, store.read(NO_MODEL, [(user, ()) for user in users]), strict=True
        ):
            keys = [event.item for part in read_log(store, user, stored) for event in part]
            rows.append([item for item in items.find(keys) if item])
    whole = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    config = rec.added.config
    return TransitionsScore.of(
        whole,
        torch.tensor([len(row) for row in rows], dtype=torch.int64),
        rec.catalog.n_items,
        **{key: getattr(config, key) for key in ("last", "decay", "prior", "weight", "followers")},
    )


def check_equal(got: TransitionsScore, wanted: TransitionsScore) -> None:
    """Every buffer is the same to the bit."""
    assert got.config == wanted.config
    for name, tensor in wanted.state_dict().items():
        mine = got.state_dict()[name]
        assert mine.dtype == tensor.dtype, name
        assert torch.equal(mine, tensor), name


def count_for_ever(report: Callable[[str], None], url: str, begin: int) -> None:
    """In a child that is killed: events, and in between passes and snapshots of what they count."""
    fresh_counts.SNAPSHOT_EVERY = 0.0
    with open_fresh(url, with_transitions()) as stream:
        number = begin
        while True:
            for _ in range(5):
                item = FIRST + number * number % 11
                stream.observe(f"u{number % 3}", item, number, f"e{number}")
                number += 1
            fresh(stream).refresh()
            report(str(number))


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
