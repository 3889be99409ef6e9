"""Records carried on by events, in whatever portions, are those of the whole history."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models.small_models import N
from serving.records.engines import CASES, engine, recommender

from longrec.core.errors import DataError, UsageError
from longrec.mixers import Context
from longrec.serving.records import engine as module
from longrec.serving.records.engine import Engine
from longrec.serving.stores.checks import SEAL
from longrec.serving.stores.protocol import HEADER


def whole(case: str, events: list[tuple[int, int]]) -> torch.Tensor:
    """h after a history, by the parallel form in float64: unknown items left out, late ones now."""
    known = [(item, time) for item, time in events if item]
    items, times = torch.tensor(known).t()
    model = recommender(case, torch.float64).model
    with torch.no_grad():
        return model.encode(items[None], Context(times=times.cummax(0).values[None]))[0, -1]


histories = st.lists(
    st.lists(st.tuples(st.integers(0, N), st.integers(-50, 10**6)), max_size=40),
    min_size=1,
    max_size=7,
)


@settings(max_examples=12)
@given(rows=histories, cuts=st.lists(st.integers(1, 25), min_size=1, max_size=4))
@pytest.mark.parametrize("case", CASES)
def test_any_portions_give_what_the_whole_history_gives(case, rows, cuts) -> None:
    moved = engine(case)
    records = moved.layout.load([None] * len(rows))
    done, call = 0, 0
    while done < max(map(len, rows)):
        size = cuts[call % len(cuts)]
        moved.advance(records, [row[done : done + size] for row in rows])
        # A restart: nothing but bytes goes on.
        records = moved.layout.load([moved.dump(records, i, b"u") for i in range(len(rows))])
        done, call = done + size, call + 1
    for i, row in enumerate(rows):
        assert records["sequence"][i] == len(row)
        assert records["skipped"][i] == sum(item == 0 for item, _ in row)
        known = [time for item, time in row if item]
        assert records["late"][i] == sum(time < max(known[:j]) for j, time in enumerate(known) if j)
        assert records["count"][i] == len(known)
        if known:
            assert records["time"][i] == max(known)
            wanted = whole(case, row)
            got = moved.read(records)[i].double()
            assert (got - wanted).abs().max() < 2e-4 * wanted.std()


@pytest.mark.parametrize("case", ["elastic by time", "hydrarec", "sasrec-rotary"])
def test_many_users_of_all_lengths_at_once(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, prefills, several windows and padded batches in one call."""
    monkeypatch.setattr(module, "PREFILL_EVENTS", 37)
    monkeypatch.setattr(module, "PREFILL_TOKENS", 111)
    random = np.random.default_rng(0)
    lengths = [0, 1, 2, 16, 17, 36, 37, 38, 74, 75, 100, *random.integers(0, 90, 60).tolist()]
    rows = [
        list(
            zip(
                random.integers(0, N + 1, n).tolist(),
                random.integers(0, 10**6, n).tolist(),
                strict=True,
            )
        )
        for n in lengths
    ]
    moved = engine(case)
    records = moved.layout.load([None] * len(rows))
    moved.advance(records, rows)
    for i, row in enumerate(rows):
        if any(item for item, _ in row):
            wanted = whole(case, row)
            assert (moved.read(records)[i].double() - wanted).abs().max() < 2e-4 * wanted.std()
    # 200 users by one event each go through the wide, the narrow and the single program.
    again = moved.layout.load([None] * 200)
    one = [[(1 + i % N, i)] for i in range(200)]
    moved.advance(again, one)
    alone = moved.layout.load([None] * 200)
    for i in range(0, 200, 3):
        moved.advance(alone[i : i + 1], one[i : i + 1])
        assert np.abs(again["output"][i] - alone["output"][i]).max() < 1e-5


def test_a_step_that_cannot_be_recorded_is_taken_by_the_model(monkeypatch) -> None:
    monkeypatch.setattr("longrec.serving.records.engine.record_steps", lambda *_: None)
    slow = Engine(recommender("elastic"))
    rows = [[(1 + i, i), (2, i)] for i in range(9)]
    fast, plain = engine("elastic").layout.load([None] * 9), slow.layout.load([None] * 9)
    engine("elastic").advance(fast, rows)
    slow.advance(plain, rows)
    slow.advance(plain[:1], [[(3, 50)]])
    engine("elastic").advance(fast[:1], [[(3, 50)]])
    assert np.abs(fast["output"] - plain["output"]).max() < 1e-5


@settings(max_examples=20)
@given(rows=histories, size=st.integers(1, 25))
@pytest.mark.parametrize("name", ["popularity", "last-item", "transitions"])
def test_counting_models_keep_the_last_items_alone(name, rows, size) -> None:
    moved, reach = engine(name), engine(name).reach
    assert reach == {"popularity": 0, "last-item": 1, "transitions": 5}[name]
    assert moved.layout.size == HEADER.size + 8 + 8 * reach + SEAL.size
    assert moved.window is None
    records = moved.layout.load([None] * len(rows))
    for start in range(0, max(map(len, rows)), size):
        moved.advance(records, [row[start : start + size] for row in rows])
        records = moved.layout.load([moved.dump(records, i, b"u") for i in range(len(rows))])
    for i, row in enumerate(rows):
        known = [item for item, _ in row if item]
        assert records["skipped"][i] == len(row) - len(known)
        if known:
            wanted = recommender(name).model.encode(torch.tensor([known]))[0, -1]
            kept = moved.read(records)[i]
            assert kept.tolist() == (wanted.tolist() if reach else [0])


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_windowed_models_read_the_last_events_again(name: str) -> None:
    rec = recommender(name)
    moved = Engine(rec)
    assert moved.window == 30
    assert moved.layout.size == HEADER.size + 8 + SEAL.size
    assert "last" in moved.statement
    tails = [[(1 + (3 * j + i) % N, j) for j in range(n)] for i, n in enumerate([1, 5, 50])]
    records = moved.layout.load([None] * 3)
    moved.advance(records, tails)
    h = moved.read(records, tails)
    for row, tail in zip(h, tails, strict=True):
        items = torch.tensor([item for item, _ in tail[-moved.window :]])[None]
        with torch.no_grad():
            wanted = rec.model.encode(items)[0, -1]
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "mend"), [("hydrarec-bidirectional", "hydrarec"), ("elastic-paper", "elastic")]
)
def test_models_that_cannot_stream_are_refused_by_name(name: str, mend: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} .*train {mend}$"):
        Engine(recommender(name))


def test_a_record_of_other_weights_is_refused() -> None:
    rec = recommender("hydrarec")
    with torch.no_grad():
        rec.model.norm.weight.add_(0.1)
    blob = Engine(rec).dump(Engine(rec).layout.load([None]), 0, b"u")
    with pytest.raises(DataError, match="belongs to a model of digest"):
        engine("hydrarec").layout.load([blob])
