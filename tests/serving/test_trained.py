"""Trained models at work: what a stream recommends, after any interleaving of users and any number
of restarts, is what the parallel model in float64 gives on the whole histories."""

from __future__ import annotations

import copy
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving.small_streams import frame_of
from small_histories import tiny_histories, walks

import longrec
from longrec.mixers import Context
from longrec.recommender import Recommender
from longrec.serving.records.engine import Engine
from longrec.serving.stores.open import open_store
from longrec.serving.stream.store_models import register
from longrec.serving.stream.stream import Stream

CASES = {
    "elastic": {},
    "elastic by time": {"forgetting": "time"},
    "elastic with a memory bank": {"memory_slots": 64, "memory_topk": 4, "memory_every": 5},
    "hydrarec": {},
    "sasrec-rotary": {"heads": 2, "band": 8},
}
QUICK = {"max_epochs": 3, "batch_tokens": 500, "warmup_steps": 5, "average": 0.9}
SMALL = {"dim": 16, "layers": 2, "ffn_dim": 16, "dropout": 0.0, "learning_rate": 4e-2}
ALONE = {"transitions": 0}
"""What states give is what is tested here."""
ITEMS, FIRST, UNKNOWN, BEGIN = 30, 1000, 7, 1_600_000_000
"""Item index i has the id FIRST + i - 1, and the next item of a ring is what comes next."""
NEAR = 1e-4
"""Of the standard deviation of scores: as near as rounding is to come."""


class Trained(NamedTuple):
    """A trained recommender, its engine (made once, which takes longer than most streams live) and
    its model in float64."""

    rec: Recommender
    engine: Engine
    exact: torch.nn.Module


@cache
def trained(case: str) -> Trained:
    """A small model that has learnt what comes next."""
    rows = walks(80, ITEMS, 5, 60)
    random = np.random.default_rng(1)
    times = [random.integers(0, 5000, len(row)).cumsum().tolist() for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        data = tiny_histories(Path(folder) / "histories", rows, times, ITEMS)
        chosen = QUICK | SMALL | CASES[case]
        rec = longrec.train(data, case.split()[0], device="cpu", progress=False, **ALONE, **chosen)
    return Trained(rec, Engine(rec), copy.deepcopy(rec.model).double())


def small_stream(case: str, path: Path) -> Stream:
    rec, engine, _ = trained(case)
    store = open_store(str(path), "process")
    register(store, rec, False)
    return Stream(rec, engine, store)


def parallel(case: str, history: list[tuple[int, int]]) -> np.ndarray:
    """Scores (ITEMS,) by the parallel model in float64; (item id, time), late ones simultaneous."""
    known = [(item - FIRST + 1, time) for item, time in history if item != UNKNOWN]
    items, times = torch.tensor(known).t()
    model = trained(case).exact
    with torch.no_grad():
        h = model.encode(items[None], Context(times=times.cummax(0).values[None]))[:, -1]
        return model.score(h)[0, 1:].numpy()


def scores_of(stream: Stream, user: str, wanted: np.ndarray) -> np.ndarray:
    """Scores (ITEMS,) that a stream gives, which are held against what is wanted."""
    found = stream.recommend(user, ITEMS, exclude_seen=False)
    assert set(found["policy"]) == {"personal"}
    order = found["item"].to_numpy() - FIRST
    assert sorted(order) == [*range(ITEMS)]
    scores = np.empty(ITEMS)
    scores[order] = found["score"].to_numpy()
    near = NEAR * wanted.std()
    assert np.abs(scores - wanted).max() <= near
    # No item stands behind one that it is ahead of by more than that.
    assert (np.minimum.accumulate(wanted[order])[:-1] >= wanted[order][1:] - near).all()
    return scores


USERS = ("anna", "42", "cy")
portions = st.lists(
    st.tuples(
        st.sampled_from(USERS),
        st.integers(1, 30),  # so many events,
        st.integers(0, ITEMS - 1),  # from this item on
        st.sampled_from([1, 1, 1, 2, 7]),  # around the ring by such steps,
        st.integers(-300, 10_000),  # with such gaps; negative ones make late events
        st.booleans(),  # as a frame or one by one,
        st.sampled_from(["go on", "recommend", "restart"]),  # and then
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=4)
@given(portions=portions)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow) if case.startswith("elastic ") else case
        for case in CASES
    ],
)
def test_restarts_between_events(case: str, portions) -> None:
    logs: dict[str, list[tuple[int, int]]] = {user: [] for user in USERS}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as streams:
        stream = streams.enter_context(small_stream(case, Path(folder)))
        for user, many, item, step, gap, as_frame, then in portions:
            begin = logs[user][-1][1] if logs[user] else BEGIN
            part = [
                (FIRST + (item + n * step) % ITEMS if (n + item) % 13 else UNKNOWN, begin + n * gap)
                for n in range(1, many + 1)
            ]
            if as_frame:
                stream.observe_many(frame_of((user, *event) for event in part))
            else:
                for event in part:
                    stream.observe(user, *event)
            logs[user] += part
            if then == "recommend":
                stream.recommend(user)
            if then == "restart":
                stream.close()
                stream = streams.enter_context(small_stream(case, Path(folder)))
        histories = {u: log for u, log in logs.items() if any(item != UNKNOWN for item, _ in log)}
        wanted = {user: parallel(case, history) for user, history in histories.items()}
        carried = {user: scores_of(stream, user, wanted[user]) for user in histories}
        stream.rebuild()
        stream.close()
        stream = streams.enter_context(small_stream(case, Path(folder)))
        for user in histories:
            rebuilt = scores_of(stream, user, wanted[user])
            assert np.abs(rebuilt - carried[user]).max() <= NEAR * wanted[user].std()


@pytest.mark.parametrize("case", CASES)
def test_it_has_learnt_and_says_so_in_a_stream(case: str, tmp_path) -> None:
    """Or the scores above would be those of noise."""
    trained(case).rec.open_stream(str(tmp_path)).close()  # as a user opens it
    with small_stream(case, tmp_path) as stream:
        stream.observe_many(
            frame_of(
                (start, FIRST + (start + n) % ITEMS, BEGIN + 900 * n)
                for start in range(ITEMS)
                for n in range(8)
            )
        )
        next_ones = [
            stream.recommend(start, 1)["item"][0] == FIRST + (start + 8) % ITEMS
            for start in range(ITEMS)
        ]
    assert sum(next_ones) > 0.7 * ITEMS
