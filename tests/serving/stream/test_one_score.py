"""Lists and ranks are those of the score's definition, whatever the model's kind of it is.

That streams and servers give the same lists is what tests/congruence holds them to.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from models import added_scores
from models.added_scores import SYSTEMS, FollowersScore, followed, model_score, skeleton
from models.small_models import N
from serving.small_streams import FIRST, recommender
from small_histories import tiny_histories, walks

from longrec.config.training import TrainConfig
from longrec.data.splits import Targets
from longrec.evaluation.rank_targets import rank_targets
from longrec.mixers import Context
from longrec.models import SequenceModel
from longrec.recommender import Recommender
from longrec.serving.maintenance.replay import Replay
from longrec.serving.maintenance.verify import verify
from longrec.serving.records.engine import Engine
from longrec.serving.records.record import RECENT

CASES = [*SYSTEMS, "elastic", "sasrec", "last-item"]
UNKNOWN = 7
ROWS = walks(6, N, 3, 45, seed=1)
COUNTED = [row[::-1] for row in ROWS]


@pytest.fixture(autouse=True)
def _registered(monkeypatch) -> None:
    added_scores.register(monkeypatch)


@cache
def make(case: str, kind: torch.dtype = torch.float32) -> Recommender:
    """A recommender with the followers score added; the same weights whenever it is called."""
    rec = recommender(case if case not in SYSTEMS else "elastic", kind)
    if case in SYSTEMS:
        model = skeleton(case, N).to(kind)
        rec = Recommender(case, model, model.config, TrainConfig(), rec.catalog)
    return rec.with_added_score(FollowersScore.of(COUNTED, N, weight=0.2))


@cache
def definition(case: str, row: tuple[int, ...]) -> np.ndarray:
    """Scores (N,) after a history, in float64, item by item."""
    rec = make(case, torch.float64)
    model, recent = rec.model, [*row[:-3:-1], 0, 0][:2]
    read = torch.tensor([row if rec.limit is None else row[-rec.limit :]])
    with torch.no_grad():
        h = model.encode(read, Context(times=torch.zeros_like(read)))[:, -1]
        if isinstance(model, SequenceModel):
            own = [model_score(model, h, item) for item in range(1, N + 1)]
        else:
            own = model.score(h)[0, 1:].tolist()
    return np.array([s + 0.2 * followed(COUNTED, recent, i + 1) for i, s in enumerate(own)])


def events_of(rows: list[list[int]]) -> pl.DataFrame:
    """A frame of the rows' events, an unknown item among each user's."""
    ids = [[FIRST + item - 1 for item in row] for row in rows]
    events = [
        (user, item, n)
        for user, row in enumerate(ids)
        for n, item in enumerate([*row[:-1], UNKNOWN, row[-1]])
    ]
    return pl.DataFrame(events, schema=["user", "item", "time"], orient="row")


def check_lists(lists: pl.DataFrame, case: str) -> None:
    """Hold lists of the users of ROWS, with seen items, against the definition."""
    for user, row in enumerate(ROWS):
        wanted = definition(case, tuple(row))
        best = (np.argsort(-wanted, kind="stable")[:12] + FIRST).tolist()
        found = lists.filter(pl.col("user") == user)
        assert found["item"].to_list() == best
        assert np.abs(found["score"].to_numpy() - np.sort(wanted)[::-1][:12]).max() < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_lists_and_ranks_are_those_of_the_definition(case: str, tmp_path: Path):
    rec = make(case)
    histories = tiny_histories(tmp_path / "histories", ROWS, n_items=N)
    ids = [[FIRST + item - 1 for item in row] for row in ROWS]
    check_lists(rec.recommend(histories=ids, k=12, exclude_seen=False), case)
    ends = histories.offsets[1:]
    known = np.ones(len(ROWS), bool)
    targets = Targets(np.arange(len(ROWS)), ends - 1, histories.items[ends - 1], known)
    ranks = rank_targets(rec.scorer, histories, targets)
    for row, rank in zip(ROWS, ranks["rank_unfiltered"], strict=True):
        scores = definition(case, tuple(row[:-1]))
        assert rank == 1 + (np.delete(scores, row[-1] - 1) >= scores[row[-1] - 1]).sum()


def test_records_are_verified_with_their_last_items(tmp_path: Path):
    rec = make("gru4rec")
    with rec.open_stream(str(tmp_path / "store"), "process") as stream:
        stream.observe_many(events_of(ROWS))
        found = verify(stream.store, Replay(rec))
        assert (found.compared, found.problems) == (len(ROWS), ())


@pytest.mark.parametrize("case", ["gru4rec", "sasrec"])
def test_records_keep_the_last_items_however_they_come(case: str, monkeypatch):
    monkeypatch.setattr("longrec.serving.records.engine.STEPPED", 6)
    engine, random = Engine(make(case)), np.random.default_rng(0)
    assert engine.layout.size == Engine(make(case).with_added_score(None)).layout.size + 16
    rows = [random.integers(0, N + 1, n).tolist() for n in (0, 1, 3, 40, 12)]
    records = engine.layout.load([None] * len(rows))
    cuts = [0, 1, 2, 3, 9, 40]
    for begin, end in pairwise(cuts):
        engine.advance(records, [[(item, 5) for item in row[begin:end]] for row in rows])
    for row, kept in zip(rows, records[RECENT].tolist(), strict=True):
        known = [item for item in row if item]
        assert kept == [*known[:-3:-1], 0, 0][:2]


def test_a_store_of_records_without_the_last_items_is_another_models(tmp_path: Path):
    plain = make("gru4rec").with_added_score(None)
    with plain.open_stream(str(tmp_path), "process") as stream:
        stream.observe_many(events_of(ROWS))
    rec = make("gru4rec")
    assert rec.state_digest != plain.state_digest
    assert rec.catalog_version == plain.catalog_version
    with rec.open_stream(str(tmp_path), "process", beside=True) as stream:
        stream.rebuild()
        lists = [stream.recommend(user, 12, exclude_seen=False) for user in range(len(ROWS))]
        check_lists(pl.concat(lists), "gru4rec")
